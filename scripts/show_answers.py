"""Print a few answers of an output file, one for each kind of custom_id (the part before the last '-')."""

import json
import sys
from pathlib import Path

from sglang_blend.console import printable


def answer_of(record: dict) -> str:
    """Text of the first choice, chat or completion."""
    choice = record["response"]["body"]["choices"][0]
    return (choice["message"]["content"] if "message" in choice else choice["text"]) or ""


def main(path: Path) -> None:
    """Show the first answer of each kind."""
    shown = set()
    print("\nSome answers:")
    for line in path.read_text().split("\n"):
        if not line:
            continue
        record = json.loads(line)
        kind = record["custom_id"].rpartition("-")[0]
        if kind not in shown:
            shown.add(kind)
            text = " ".join(answer_of(record).split())
            # A model may have written what moves a terminal's cursor or sets its clipboard.
            print(printable(f"  {record['custom_id']:<22}{text[:150]}{'...' if len(text) > 150 else ''}"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
