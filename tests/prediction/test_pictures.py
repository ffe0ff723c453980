import base64
import re

import cv2
import numpy as np

from diffiml_plugin.prediction.pictures import HEADING, as_picture, headed, heat, strip
from diffiml_plugin.prediction.result import overlay
from diffiml_plugin.reports.page import Section, Strip, write_page
from diffiml_plugin.table import Table

IMAGE = np.full((40, 60, 3), 120, np.uint8)
MASK = np.zeros((40, 60), np.uint8)
MASK[10:20, 10:30] = 1


def test_overlay_marks_the_region_only():
    marked = overlay(IMAGE, MASK)
    changed = (marked != IMAGE).any(axis=2)
    assert np.array_equal(changed, MASK > 0)
    assert marked[15, 20].tolist() == [180, 84, 84] and (IMAGE == 120).all()  # 45 % of red (255, 40, 40)


def test_heat_gets_brighter():
    shades = heat(np.linspace(0, 0.5, 6)[None], highest=0.5).sum(axis=2)[0]
    assert (np.diff(shades.astype(int)) > 0).all()


def test_maps_become_grey_pictures():
    assert as_picture(np.array([[0.0, 0.5, 1.0]]))[0, :, 0].tolist() == [0, 128, 255]


def test_strip_has_one_height():
    assert strip(IMAGE, MASK.astype(float), height=20, gap=4).shape == (20, 30 + 4 + 30, 3)


def test_a_heading_stands_above_its_picture():
    picture = headed(IMAGE, "photograph")
    assert picture.shape == (40 + HEADING, 60, 3) and np.array_equal(picture[HEADING:], IMAGE)
    assert picture[:HEADING].min() < 50 and (headed(IMAGE, "")[:HEADING] == 255).all()


def test_page_is_self_contained_and_escaped(tmp_path):
    pictures = Strip({"input": IMAGE, "truth": MASK / 1.0}, "name & caption")
    section = Section("S<i>ction", "te<x>t", [pictures], [Table(["a"], [["<b>"]])])
    write_page(tmp_path / "report.html", "T<i>tle", "lead", [section], {"F1 <after>": "0.61"})
    text = (tmp_path / "report.html").read_text()
    assert "T&lt;i&gt;tle" in text and "S&lt;i&gt;ction" in text and "te&lt;x&gt;t" in text
    assert "F1 &lt;after&gt;" in text and "<td>&lt;b&gt;" in text and "name &amp; caption" in text
    assert not re.search(r"(src|href)=['\"](?!data:)", text) and "http" not in text and "url(" not in text
    stored = re.findall(r'data:image/(\w+);base64,([^"]+)"', text)
    assert [kind for kind, _ in stored] == ["jpeg", "png"]
    truth = cv2.imdecode(np.frombuffer(base64.b64decode(stored[1][1]), np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(truth[..., 0], MASK * 255)
