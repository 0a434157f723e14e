"""Tool calls as some models write them: the whole answer is a Python list of calls with keyword arguments."""

from __future__ import annotations

import ast
import json
import re

from rollout.episodes.tool_call import ParsedContent, ToolCall, is_json

_ATTEMPT = re.compile(r"\s*\[\s*[A-Za-z_][\w.]*\s*\(")


class PythonicFormat:
    """[name(argument=literal, ...), ...]; nothing before it, nothing after it."""

    def plain(self, text: str, begins: bool) -> int:
        """Returns how many characters are content for certain: none of an answer that begins as a list does."""
        return 0 if begins and text.lstrip()[:1] in ("", "[") else len(text)

    def parse(self, text: str) -> ParsedContent:
        """Reads the whole answer as calls, or leaves all of it as it is."""
        if _ATTEMPT.match(text) is None:
            return ParsedContent(text)
        try:
            tree = ast.parse(text.strip(), mode="eval").body
            calls = [_call(node) for node in tree.elts] if isinstance(tree, ast.List) else []
        except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
            calls = []
        return ParsedContent("", calls) if calls else ParsedContent(text, (), ("malformed_call",))


def _call(node: ast.expr) -> ToolCall:
    if not isinstance(node, ast.Call) or node.args or not isinstance(node.func, (ast.Name, ast.Attribute)):
        raise ValueError("no call with keyword arguments alone")
    arguments = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in node.keywords}
    if any(keyword.arg is None for keyword in node.keywords) or not is_json(arguments):
        raise ValueError("arguments without names, or that JSON has not")
    return ToolCall(ast.unparse(node.func), json.loads(json.dumps(arguments)))
