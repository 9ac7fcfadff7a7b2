# SPDX-License-Identifier: Apache-2.0
"""The ONNX parser of TensorRT for RTX, which reads a file without building it.

Like `vitedge.export.tensorrt.rtx` it is imported by the process that it runs in, and by no other.
"""

from __future__ import annotations

from typing import Any

import tensorrt_rtx as trt

from vitedge.errors import UnreadableArtifact
from vitedge.export.tensorrt.refusals import parser_sentence
from vitedge.export.tensorrt.request import EngineRequest


class Log(trt.ILogger):  # type: ignore[misc]
    """Keeps every message of parser and builder."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.messages: list[str] = []
        self.errors: list[str] = []

    def log(self, severity: Any, message: str) -> None:
        """Called by parser and builder."""
        self.messages.append(message)
        if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
            self.errors.append(message)


def read(request: EngineRequest) -> None:
    """Reads a file, and builds nothing.

    Raises:
        UnreadableArtifact: the parser refuses the file.
    """
    log = Log()
    builder = trt.Builder(log)
    parse(request, builder, log)


def parse(request: EngineRequest, builder: Any, log: Log) -> tuple[Any, Any]:
    """Returns the network of a file, and the parser, which holds the network's weights until it is built.

    Raises:
        UnreadableArtifact: the parser refuses the file.
    """
    request.progress("reading the ONNX file")
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if parser.parse_from_file(str(request.onnx)):
        return network, parser
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    if not errors:
        raise UnreadableArtifact(parser_sentence(request.onnx, "\n".join(log.errors), "", ""))
    first = errors[0]
    sentence = parser_sentence(request.onnx, first.desc(), first.node_name(), first.node_operator())
    raise UnreadableArtifact(sentence)
