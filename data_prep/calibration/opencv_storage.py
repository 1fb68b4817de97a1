"""Read OpenCV's FileStorage files (YAML, JSON, XML) as builtin types, and write YAML.

Files are not read with cv2.FileStorage: it prints its own errors, aborts on some malformed files and cannot list the
keys of a file, so a misspelt key could not be explained.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

import numpy as np
import yaml

from pipeline.arrays import Float64s

_FLOW_VALUES_PER_LINE = 8


class _Loader(yaml.SafeLoader):
    """YAML as written by OpenCV, where matrices are tagged mappings."""


def _construct_mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    return loader.construct_mapping(node, deep=True)


for _name in ("opencv-matrix", "opencv-nd-matrix"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_name}", _construct_mapping)


def parse_storage(text: str) -> Any:
    """Read OpenCV FileStorage YAML, JSON or XML, or plain YAML or JSON, into builtin types.

    A matrix becomes a mapping with `rows`, `cols` and `data`.

    Raises:
        ValueError: if the text is none of these; the message says where parsing failed.
    """
    stripped = text.lstrip()
    if stripped.startswith("<"):
        return _parse_xml(stripped)
    if stripped.startswith("{"):
        try:
            return json.loads(stripped)
        except json.JSONDecodeError:
            # Some versions of OpenCV write the number "1." into JSON, which is valid only in YAML.
            pass
    # "%YAML:1.0" is OpenCV's spelling of the directive, which YAML parsers reject.
    body = re.sub(r"\A%YAML[^\n]*\n", "", stripped)
    try:
        return yaml.load(body, _Loader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1 + text.count(chr(10)) - body.count(chr(10))}" if mark else ""
        raise ValueError(f"not valid YAML{line}: {getattr(error, 'problem', None) or 'unreadable'}") from error


def _parse_xml(text: str) -> dict[str, Any]:
    try:
        root = ElementTree.fromstring(text.encode())
    except ElementTree.ParseError as error:
        raise ValueError(f"not valid XML: {error}") from error
    if root.tag != "opencv_storage":
        raise ValueError(f"XML, but not OpenCV's: its root is <{root.tag}>, not <opencv_storage>")
    return {child.tag: _xml_value(child) for child in root}


def _xml_value(element: ElementTree.Element) -> Any:
    if len(element):
        return {child.tag: _xml_value(child) for child in element}
    return (element.text or "").strip().strip('"')


def numbers_of(value: Any) -> Float64s:
    """The numbers of a parsed value as a flat float64 array in row-major order.

    The value is a matrix, (nested) lists, or text such as "[[1. 0.] [0. 1.]]", the str() of a numpy array.

    Raises:
        ValueError: if an element is not a number, or a matrix does not have rows x cols numbers.
    """
    if isinstance(value, Mapping):
        numbers = numbers_of(value.get("data", []))
        if "rows" in value and "cols" in value:
            rows, cols = (int(numbers_of(value[key])[0]) for key in ("rows", "cols"))
            if rows * cols != len(numbers):
                raise ValueError(f"has the size {rows} x {cols}, but holds {len(numbers)} numbers")
        return numbers
    if isinstance(value, str):
        # PyYAML reads "1e-05", which has no decimal point, as a string.
        return np.array([_number(token) for token in re.split(r"[\s,;\[\]()]+", value) if token])
    if isinstance(value, list | tuple):
        parts = [numbers_of(item) for item in value]
        return np.concatenate(parts) if parts else np.empty(0)
    return np.empty(0) if value is None else np.array([_number(value)])


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"holds {str(value)[:40]!r}, which is not a number") from None


def dump_storage(content: Mapping[str, Any]) -> str:
    """Write builtin types and arrays as YAML that cv2.FileStorage and `parse_storage` read back exactly.

    Args:
        content: names to numbers, text, lists of these, or (rows, cols) float arrays, which become matrices. Names
            consist of letters, digits and underscores, as OpenCV requires.

    Raises:
        ValueError: if the format cannot hold a name or a value.
    """
    lines = ["%YAML:1.0", "---"]
    for name, value in content.items():
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ValueError(f"{name!r} is not a valid name in an OpenCV file")
        if isinstance(value, np.ndarray):
            matrix = np.atleast_2d(value).astype(np.float64)
            lines += [f"{name}: !!opencv-matrix", f"   rows: {matrix.shape[0]}", f"   cols: {matrix.shape[1]}"]
            lines += ["   dt: d", f"   data: {_flow(matrix.ravel().tolist(), 7)}"]
        elif isinstance(value, list | tuple):
            lines.append(f"{name}: {_flow(list(value), 4)}")
        else:
            lines.append(f"{name}: {_scalar(value)}")
    return "\n".join(lines) + "\n"


def _flow(values: list[Any], indent: int) -> str:
    texts = [_scalar(value) for value in values]
    chunks = [
        ", ".join(texts[start : start + _FLOW_VALUES_PER_LINE]) for start in range(0, len(texts), _FLOW_VALUES_PER_LINE)
    ]
    return "[ " + (",\n" + " " * indent).join(chunks) + " ]"


def _scalar(value: Any) -> str:
    if isinstance(value, bool | np.bool_):
        return str(int(value))
    if isinstance(value, int | np.integer):
        return str(int(value))
    if isinstance(value, float | np.floating):
        number = float(value)
        if math.isnan(number):
            return ".Nan"
        if math.isinf(number):
            return ".Inf" if number > 0 else "-.Inf"
        # repr is the shortest text that reads back exactly; without a decimal point OpenCV would read an integer.
        text = repr(number)
        return text if "." in text else text.replace("e", ".0e")
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    raise ValueError(f"a {type(value).__name__} cannot be written to an OpenCV file")
