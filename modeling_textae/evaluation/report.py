"""Reports: one result as JSON and Markdown, the command that made it inside."""

import json
import shlex
import sys
from pathlib import Path


def command_line():
    """The command of this process, as a shell would read it."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def figure(value):
    """A number as a table shows it: shares to four places, the rest as it is."""
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 10 else f"{value:.1f}"
    return "–" if value is None else str(value)


def table(rows, columns):
    """A Markdown table.

    Args:
        rows (`list[dict]`).
        columns (`list[str]`): keys of the rows, and headings.

    Returns:
        `str`.
    """
    lines = ["| " + " | ".join(columns) + " |", "|" + "|".join("---" for _ in columns) + "|"]
    lines += ["| " + " | ".join(figure(row.get(column)) for column in columns) + " |" for row in rows]
    return "\n".join(lines)


def report_file(path, ending):
    """`path` with an ending added, its folder made."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(path.name + ending)


def write_report(path, title, figures, body, command=None):
    """Write `path`.json and `path`.md beside each other.

    Args:
        path: without an ending.
        title (`str`): the heading.
        figures (`dict`): all numbers, for the JSON.
        body (`str`): Markdown below the command.
        command (`str`, *optional*): by default this process's.
    """
    command = command_line() if command is None else command
    whole = {"command": command, **figures}
    report_file(path, ".json").write_text(json.dumps(whole, indent=2, ensure_ascii=False, default=str) + "\n")
    report_file(path, ".md").write_text(f"# {title}\n\n`{command}`\n\n{body}\n")


def show_table(path, title, rows):
    """Print rows as a table, and write them as the report `path`; arguments as of [`write_report`] and [`table`]."""
    body = table(rows, list(rows[0]))
    write_report(path, title, {"rows": rows}, body)
    print(body)
