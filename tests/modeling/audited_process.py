"""A script that loads saved folders with their own code, runs them, and says what Python's audit hooks saw of it.

``python audited_process.py OUTPUT FOLDER...``. OUTPUT becomes JSON: for each folder what its code did itself in being
loaded, and what it or anything that it called did in running; as [event, module of the standard library or null, what].
"""

import json
import os
import sys
import sysconfig
from pathlib import Path

import torch
from transformers import AutoModelForImageClassification

# Python's audit events of these names, or that begin with them and a dot; listing a folder is not among them.
WATCHED = ("open", "exec", "compile", "ctypes", "marshal", "os", "pickle", "shutil", "socket", "subprocess", "urllib")
HARMLESS = ("os.listdir", "os.scandir", "os.walk")
STANDARD_LIBRARY = sysconfig.get_path("stdlib")

seen = []


def is_ours(frame):
    return "transformers_modules" in frame.f_code.co_filename


def is_standard(frame):
    name = frame.f_code.co_filename
    return name.startswith(("<frozen ", STANDARD_LIBRARY)) and "site-packages" not in name


def stack_above(frame):
    while frame is not None:
        yield frame
        frame = frame.f_back


def what_happened(event, arguments):
    if event == "open":
        path, _, flags = arguments
        access = "writes" if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) else "reads"
        return f"{access} {Path(os.fsdecode(path)).name if isinstance(path, (str, bytes)) else path}"
    if event == "exec":
        return arguments[0].co_filename
    return str(arguments[1] if event == "compile" else arguments)


def watch(event, arguments):
    if event.split(".")[0] not in WATCHED or event in HARMLESS:
        return
    stack = list(stack_above(sys._getframe(1)))
    first = stack[0].f_globals.get("__name__") if is_standard(stack[0]) else None
    # What is imported can be read in the code, and is.
    if not any(map(is_ours, stack)) or str(first).startswith("importlib._bootstrap"):
        return
    asks_itself = is_ours(next(frame for frame in stack if not is_standard(frame)))
    seen.append((asks_itself, (event, first, what_happened(event, arguments))))


def load_and_run(folder):
    model = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True)
    loading = [what for asks_itself, what in seen if asks_itself]
    seen.clear()
    pixel_values = torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32)
    with torch.no_grad():
        model(pixel_values, output_token_sources=True)
        with model.reduction(False):
            model(pixel_values)
        model.set_reduction(keep_ratio=0.5)
        model.fuse()(pixel_values)
    model.train()(pixel_values, labels=torch.tensor([0, 1])).loss.backward()
    running = [what for _, what in seen]
    seen.clear()
    return {"loading": sorted(set(loading), key=str), "running": running}


def main(output, *folders):
    sys.modules["fatr_hf"] = None  # importing it is an error from here on
    sys.addaudithook(watch)
    Path(output).write_text(json.dumps([load_and_run(folder) for folder in folders]))


if __name__ == "__main__":
    main(*sys.argv[1:])
