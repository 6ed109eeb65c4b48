"""Publishing models: conversion, cards, and proof that a saved folder works without this package."""
