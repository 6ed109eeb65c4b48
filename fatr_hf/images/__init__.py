"""Pictures: how files are opened, which files of a folder are pictures, and what class each is of.

Training, analysis, serving and the command line read pictures here and nowhere else, so that all see the same ones.
"""

from .class_folders import ClassFolder, Split, read_class_folder
from .folders import Folder, list_folder, picture_endings
from .names import printable
from .opening import PictureError, TooManyPixels, open_picture
from .processors import check_processor, picture_mode, resize_processor

__all__ = [
    "ClassFolder",
    "Folder",
    "PictureError",
    "Split",
    "TooManyPixels",
    "check_processor",
    "list_folder",
    "open_picture",
    "picture_endings",
    "picture_mode",
    "printable",
    "read_class_folder",
    "resize_processor",
]
