"""Tests that the picture of the data flow is the one that its script writes, and that what it names is there."""

from pathlib import Path
import re
from xml.etree import ElementTree

import matplotlib
from PIL import ImageFont
import yaml

from docs import architecture
from tests.test_layers import ORDER

ROOT = Path(__file__).parents[1]


def test_the_committed_picture_is_what_the_script_writes() -> None:
    assert architecture.FILE.read_text(encoding="utf-8") == architecture.picture()
    assert "](architecture.svg)" in (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def test_it_names_every_package_and_stage_and_no_other() -> None:
    words = [
        element.text or "" for element in ElementTree.parse(architecture.FILE).iter() if element.tag.endswith("text")
    ]
    packages = {word for word in words if re.fullmatch(r"sdpg/\w+", word)}
    # The package `commands` holds no step of the flow.
    assert packages == {f"sdpg/{name}" for name in ORDER[ORDER.index("params") :]} - {"sdpg/commands"}
    assert all((ROOT / package / "__init__.py").is_file() for package in packages)
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    assert [box.title for box in architecture.STAGES] == list(stages)


def test_words_stay_in_their_boxes_and_boxes_apart() -> None:
    # DejaVu is the widest of the fonts that a reader may have.
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    plain, bold, code = (
        ImageFont.truetype(str(folder / name), 100)
        for name in ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSansMono.ttf")
    )
    boxes = architecture.boxes()
    for box in boxes:
        written = [(bold, 14.5, box.title), (code, 11.5, box.package), *((plain, 12, line) for line in box.lines)]
        for font, size, words in written:
            assert 15 + font.getlength(words) * size / 100 <= box.width - 4, words
        assert 43 + 16 * len(box.lines) - 16 + 14 <= box.height - 11, box.title
        others = [other for other in boxes if other is not box]
        assert not any(
            box.x < other.right and other.x < box.right and box.y < other.bottom and other.y < box.bottom
            for other in others
        )
        assert box.right <= architecture.WIDTH - architecture.MARGIN and box.bottom < architecture.HEIGHT
