# SPDX-License-Identifier: Apache-2.0
"""Runs ONNX files in the runtime of an environment that has NumPy and that runtime alone, from Python 3.8 on.

``python runtime_file.py onnxruntime|openvino JOB.json`` reads
``{"out": DIR, "files": {NAME: [FILE.onnx, IMAGES.npy]}}`` and runs every file over its images one by one. The outputs
go to ``DIR/NAME.npy``, and standard output gets a line of JSON for each file: ``{"name": NAME, "refused": ""}``, or
what the library says. A file that ends the process is known by the absence of its line.
"""

import json
import sys
from pathlib import Path

import numpy as np


def main(library, job):
    told = json.loads(Path(job).read_text())
    module = __import__(library)
    opened = {"onnxruntime": open_onnxruntime, "openvino": open_openvino}[library]
    for name, (path, images) in told["files"].items():
        refused = ""
        try:
            run = opened(module, path)
            np.save(
                str(Path(told["out"]) / (name + ".npy")), np.concatenate([run(one[None]) for one in np.load(images)])
            )
        except Exception as error:  # the libraries' errors have no common ancestor below Exception
            refused = str(error) or type(error).__name__
        print(json.dumps({"name": name, "refused": refused}), flush=True)


def open_onnxruntime(library, path):
    """Returns a function from one image, ``(1, channels, height, width)``, to the first output."""
    options = library.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = library.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda image: session.run(None, {name: image})[0]


def open_openvino(library, path):
    """Does the same with the settings of `vitedge.runtimes.openvino`."""
    core = library.Core()
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
        "INFERENCE_NUM_THREADS": "1",
        "NUM_STREAMS": "1",
    }
    request = core.compile_model(core.read_model(path), "CPU", settings).create_infer_request()
    return lambda image: np.array(request.infer({0: image})[0])


if __name__ == "__main__":
    main(*sys.argv[1:])
