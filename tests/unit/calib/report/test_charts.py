"""Charts of the report are drawn to the pixel: sizes and places of each are worked out by hand beside it."""

import re

from markupsafe import Markup

from internvl_edge.calib.report.charts import (
    Bar,
    BarChart,
    LineChart,
    Series,
    bar_chart,
    column_chart,
    heat_map,
    line_chart,
)


def drawn(picture: Markup) -> list[str]:
    """Return the elements of a picture and what stands in them, without the brackets between them."""
    return str(picture).split("><")


def test_lines_on_a_log_scale() -> None:
    """Two decades are 130 px high: a factor of 10 is 65 px; three blocks share 246 px, 82 each."""
    chart = LineChart(
        title="vision: fc1",
        series=[
            Series(name="as measured", style="s1", points={0: 1.0, 1: 10.0, 2: 100.0}),
            Series(name="clip", style="s2", points={0: 1.0, 2: 10.0}),
        ],
        y_label="magnitude",
        marked={1: "too loud"},
        limit=(100.0, "fp16"),
    )
    assert drawn(line_chart(chart)) == [
        '<svg width="304" height="186" viewBox="0 0 304 186" role="img" aria-label="vision: fc1"',
        'text class="t" x="4.0" y="12.0">vision: fc1</text',
        'path class="g" d="M48.0 152.0L294.0 152.0"/',
        'text class="e" x="43.0" y="156.0">1</text',
        'path class="g" d="M48.0 132.4L294.0 132.4"/',
        'text class="e" x="43.0" y="136.4">2</text',
        'path class="g" d="M48.0 106.6L294.0 106.6"/',
        'text class="e" x="43.0" y="110.6">5</text',
        'path class="g" d="M48.0 87.0L294.0 87.0"/',
        'text class="e" x="43.0" y="91.0">10</text',
        'path class="g" d="M48.0 67.4L294.0 67.4"/',
        'text class="e" x="43.0" y="71.4">20</text',
        'path class="g" d="M48.0 41.6L294.0 41.6"/',
        'text class="e" x="43.0" y="45.6">50</text',
        'path class="g" d="M48.0 22.0L294.0 22.0"/',
        'text class="e" x="43.0" y="26.0">100</text',
        'text class="m" transform="translate(10 87.0) rotate(-90)">magnitude</text',
        'text class="m" x="89.0" y="166.0">0</text',
        'text class="m" x="171.0" y="166.0">1</text',
        'text class="m" x="253.0" y="166.0">2</text',
        'text class="m" x="171.0" y="182.0">block</text',
        'path class="limit" d="M48 22.0H294"/',
        'text class="e bad" x="290.0" y="18.0">fp16</text',
        'path class="l s1" d="M89.0 152.0L171.0 87.0L253.0 22.0"/',
        'path class="d s1" d="M89.0 152.0h0M171.0 87.0h0M253.0 22.0h0"/',
        'path class="l s2" d="M89.0 152.0L253.0 87.0"/',
        'path class="d s2" d="M89.0 152.0h0M253.0 87.0h0"/',
        'path class="mark" d="M171.0 145l-4 7h8z"/',
        'rect class="hit" x="48.0" y="22.0" width="82.0" height="130.0"',
        "title>block 0\nas measured: 1\nclip: 1</title",
        "/rect",
        'rect class="hit" x="130.0" y="22.0" width="82.0" height="130.0"',
        "title>block 1\nas measured: 10\nkept high: too loud</title",
        "/rect",
        'rect class="hit" x="212.0" y="22.0" width="82.0" height="130.0"',
        "title>block 2\nas measured: 100\nclip: 10</title",
        "/rect",
        "/svg>",
    ]


def test_a_line_of_one_value_on_a_linear_scale() -> None:
    """Half of the range is half of the height, and the one value has the whole width."""
    chart = LineChart(
        title="",
        series=[Series(name="a", style="s1", points={3: 0.5})],
        y_label="of the last",
        x_label="batch",
        y_range=(0.0, 1.0),
        log=False,
        width=204,
        height=156,
    )
    assert drawn(line_chart(chart)) == [
        '<svg width="204" height="156" viewBox="0 0 204 156" role="img" aria-label=""',
        'text class="t" x="4.0" y="12.0"',
        "/text",
        'path class="g" d="M48.0 122.0L194.0 122.0"/',
        'text class="e" x="43.0" y="126.0">0</text',
        'path class="g" d="M48.0 102.0L194.0 102.0"/',
        'text class="e" x="43.0" y="106.0">0.2</text',
        'path class="g" d="M48.0 82.0L194.0 82.0"/',
        'text class="e" x="43.0" y="86.0">0.4</text',
        'path class="g" d="M48.0 62.0L194.0 62.0"/',
        'text class="e" x="43.0" y="66.0">0.6</text',
        'path class="g" d="M48.0 42.0L194.0 42.0"/',
        'text class="e" x="43.0" y="46.0">0.8</text',
        'path class="g" d="M48.0 22.0L194.0 22.0"/',
        'text class="e" x="43.0" y="26.0">1</text',
        'text class="m" transform="translate(10 72.0) rotate(-90)">of the last</text',
        'text class="m" x="121.0" y="136.0">3</text',
        'text class="m" x="121.0" y="152.0">batch</text',
        'path class="l s1" d="M121.0 72.0"/',
        'path class="d s1" d="M121.0 72.0h0"/',
        'rect class="hit" x="48.0" y="22.0" width="146.0" height="100.0"',
        "title>batch 3\na: 0.5</title",
        "/rect",
        "/svg>",
    ]


def test_bars_cut_at_the_largest() -> None:
    """100 is 420 px: half of it is 210 px, and 200 is drawn as 100. Left are 14 px and 12 characters of 6.7 px."""
    chart = BarChart(
        bars=[
            Bar(label="layers.0.qkv", value=50.0, note="50 dB", hover="first", style="b1"),
            Bar(label="fc1", value=200.0, note="200 dB in vision", hover="second", style="b2"),
        ],
        label="SQNR",
        largest=100.0,
    )
    assert drawn(bar_chart(chart)) == [
        '<svg width="637" height="96" viewBox="0 0 637 96" role="img" aria-label="SQNR"',
        'path class="g" d="M94.4 20.0L94.4 58.0"/',
        'path class="g" d="M178.4 20.0L178.4 58.0"/',
        'path class="g" d="M262.4 20.0L262.4 58.0"/',
        'path class="g" d="M346.4 20.0L346.4 58.0"/',
        'path class="g" d="M430.4 20.0L430.4 58.0"/',
        'path class="g" d="M514.4 20.0L514.4 58.0"/',
        'text class="m" x="94.4" y="72.0">0</text',
        'text class="m" x="178.4" y="72.0">20</text',
        'text class="m" x="262.4" y="72.0">40</text',
        'text class="m" x="346.4" y="72.0">60</text',
        'text class="m" x="430.4" y="72.0">80</text',
        'text class="m" x="514.4" y="72.0">100</text',
        'text class="m" x="304.4" y="89.0">SQNR</text',
        'text class="e c" x="86.4" y="33.0">layers.0.qkv</text',
        'rect class="b1" x="94.4" y="23" width="210.0" height="13"/',
        'text class="c" x="310.4" y="33.0">50 dB</text',
        'rect class="hit" x="0.0" y="20.0" width="514.4" height="19.0"',
        "title>first</title",
        "/rect",
        'text class="e c" x="86.4" y="52.0">fc1</text',
        'rect class="b2" x="94.4" y="42" width="420.0" height="13"/',
        'text class="c" x="520.4" y="52.0">200 dB in vision</text',
        'rect class="hit" x="0.0" y="39.0" width="514.4" height="19.0"',
        "title>second</title",
        "/rect",
        "/svg>",
    ]


def test_bars_on_a_log_scale() -> None:
    """The scale begins a decade below the smallest: three decades in 420 px, so 10 is 140 px long."""
    chart = BarChart(
        bars=[
            Bar(label="a", value=10.0, note="10", hover="first", style="b1"),
            Bar(label="b", value=1000.0, note="1000", hover="second", style="b1"),
        ],
        label="ms",
        log=True,
    )
    assert drawn(bar_chart(chart)) == [
        '<svg width="483" height="96" viewBox="0 0 483 96" role="img" aria-label="ms"',
        'path class="g" d="M20.7 20.0L20.7 58.0"/',
        'path class="g" d="M87.5 20.0L87.5 58.0"/',
        'path class="g" d="M160.7 20.0L160.7 58.0"/',
        'path class="g" d="M227.5 20.0L227.5 58.0"/',
        'path class="g" d="M300.7 20.0L300.7 58.0"/',
        'path class="g" d="M367.5 20.0L367.5 58.0"/',
        'path class="g" d="M440.7 20.0L440.7 58.0"/',
        'text class="m" x="20.7" y="72.0">1</text',
        'text class="m" x="87.5" y="72.0">3</text',
        'text class="m" x="160.7" y="72.0">10</text',
        'text class="m" x="227.5" y="72.0">30</text',
        'text class="m" x="300.7" y="72.0">100</text',
        'text class="m" x="367.5" y="72.0">300</text',
        'text class="m" x="440.7" y="72.0">1000</text',
        'text class="m" x="230.7" y="89.0">ms</text',
        'text class="e c" x="12.7" y="33.0">a</text',
        'rect class="b1" x="20.7" y="23" width="140.0" height="13"/',
        'text class="c" x="166.7" y="33.0">10</text',
        'rect class="hit" x="0.0" y="20.0" width="440.7" height="19.0"',
        "title>first</title",
        "/rect",
        'text class="e c" x="12.7" y="52.0">b</text',
        'rect class="b1" x="20.7" y="42" width="420.0" height="13"/',
        'text class="c" x="446.7" y="52.0">1000</text',
        'rect class="hit" x="0.0" y="39.0" width="440.7" height="19.0"',
        "title>second</title",
        "/rect",
        "/svg>",
    ]


def test_a_heat_map_joins_neighbours_of_one_colour() -> None:
    """Four groups share 512 px; 1 has colour 1, 2 colour 2, 12 colour 5 and 300 colour 9; from 10 a cell has a text."""
    assert drawn(heat_map("vision", {0: [1.0, 1.0, 12.0, 300.0], 3: [2.0, 2.0, 2.0, 2.0]}, {0: "largest 5"})) == [
        '<svg width="568" height="82" viewBox="0 0 568 82" role="img" aria-label="vision"',
        'text class="t" x="4.0" y="12.0">vision</text',
        'text class="e" x="40.0" y="32.0">0</text',
        'text class="e" x="40.0" y="44.0">3</text',
        'text class="m" transform="translate(10 34.0) rotate(-90)">block</text',
        'text class="m" x="46.0" y="60.0">0</text',
        'text class="m" x="174.0" y="60.0">1</text',
        'text class="m" x="302.0" y="60.0">2</text',
        'text class="m" x="430.0" y="60.0">3</text',
        'text class="m" x="558.0" y="60.0">4</text',
        'text class="m" x="302.0" y="76.0">channel group</text',
        'path class="h1" d="M46 22h256v12h-256z"/',
        'path class="h2" d="M46 34h512v12h-512z"/',
        'path class="h5" d="M302 22h128v12h-128z"/',
        'path class="h9" d="M430 22h128v12h-128z"/',
        'rect class="hit" x="46.0" y="22.0" width="512.0" height="12.0"',
        "title>block 0\nlargest 5</title",
        "/rect",
        'rect class="hit" x="46.0" y="34.0" width="512.0" height="12.0"',
        "title>block 3\n</title",
        "/rect",
        'rect class="hit" x="430.0" y="22.0" width="128.0" height="12.0"',
        "title>block 0, group 3: 300 × the median channel</title",
        "/rect",
        'rect class="hit" x="302.0" y="22.0" width="128.0" height="12.0"',
        "title>block 0, group 2: 12 × the median channel</title",
        "/rect",
        "/svg>",
    ]


def test_columns() -> None:
    """Two blocks have 554 px each, but no column more than 14; 0.01 is the bottom, 1 the top, and 0 is left out."""
    groups = {
        0: [
            Bar(label="", value=0.01, note="", hover="x", style="b1"),
            Bar(label="", value=0, note="", hover="y", style="b1"),
        ],
        1: [Bar(label="", value=1.0, note="", hover="z", style="b2")],
    }
    assert drawn(column_chart("vision", groups, "share", (0.01, 1.0))) == [
        '<svg width="1180" height="132" viewBox="0 0 1180 132" role="img" aria-label="vision"',
        'text class="t" x="4.0" y="12.0">vision</text',
        'path class="g" d="M62.0 98.0L1170.0 98.0"/',
        'text class="e" x="57.0" y="102.0">0.01</text',
        'path class="g" d="M62.0 79.9L1170.0 79.9"/',
        'text class="e" x="57.0" y="83.9">0.03</text',
        'path class="g" d="M62.0 60.0L1170.0 60.0"/',
        'text class="e" x="57.0" y="64.0">0.1</text',
        'path class="g" d="M62.0 41.9L1170.0 41.9"/',
        'text class="e" x="57.0" y="45.9">0.3</text',
        'path class="g" d="M62.0 22.0L1170.0 22.0"/',
        'text class="e" x="57.0" y="26.0">1</text',
        'text class="m" transform="translate(10 60.0) rotate(-90)">share</text',
        'text class="m" x="339.0" y="112.0">0</text',
        'rect class="b1" x="106.3" y="97.0" width="12.6" height="1.0"',
        "title>x</title",
        "/rect",
        'text class="m" x="893.0" y="112.0">1</text',
        'rect class="b2" x="660.3" y="22.0" width="12.6" height="76.0"',
        "title>z</title",
        "/rect",
        'path class="g" d="M62.0 98.0L1170.0 98.0"/',
        'text class="m" x="616.0" y="128.0">block</text',
        "/svg>",
    ]


def texts(picture: Markup, style: str) -> list[str]:
    """Return what is written in one style."""
    return re.findall(rf'<text class="{style}"[^>]*>([^<]*)</text>', str(picture))


def numbers(picture: Markup, pattern: str) -> list[float]:
    """Return the numbers that `pattern` catches."""
    return [float(found) for found in re.findall(pattern, str(picture))]


def test_dots_are_left_out_above_64_values() -> None:
    def dots(count: int) -> int:
        points = {i: 1.0 + i for i in range(count)}
        chart = LineChart(title="t", series=[Series(name="a", style="s1", points=points)], y_label="y")
        return str(line_chart(chart)).count("h0")

    assert (dots(64), dots(65)) == (64, 0)


def test_a_chart_of_nothing_has_axes_and_no_lines() -> None:
    found = str(line_chart(LineChart(title="t", series=[Series(name="a", style="s1", points={})], y_label="y")))
    assert '<path class="l s1" d=""/><path class="d s1" d=""/>' in found
    assert "hit" not in found


def test_rows_of_a_tall_map_are_lower_and_every_other_is_named() -> None:
    def heights(rows: int) -> tuple[list[str], set[float]]:
        found = heat_map("t", {i: [1.0] for i in range(rows)}, {})
        return texts(found, "e"), set(numbers(found, r'<rect class="hit"[^>]*height="([0-9.]+)"'))

    assert heights(16) == ([str(i) for i in range(16)], {12.0})
    assert heights(17) == ([str(i) for i in range(0, 17, 2)], {12.0})
    assert heights(32) == ([str(i) for i in range(0, 32, 2)], {12.0})
    assert heights(33) == ([str(i) for i in range(0, 33, 3)], {10.0})


def test_colours_change_at_their_edges() -> None:
    """Each ratio is the first of its colour; the value just below each has the one before."""
    edges = (1.0, 1.5, 2.5, 5.0, 10.0, 20.0, 50.0, 100.0, 300.0)
    found = heat_map("t", {0: [value for edge in edges for value in (edge * 0.999, edge)]}, {})
    assert numbers(found, r'<path class="h([0-9])"') == [float(level) for level in range(10)]
    assert str(found).count("zM") == 0, "a colour's neighbours are one piece"


def test_the_hottest_150_cells_have_a_text_the_hottest_first() -> None:
    found = heat_map("t", {0: [9.9] + [10.0 + i for i in range(151)]}, {})
    named = [int(group) for group in numbers(found, r"block 0, group (\d+):")]
    assert named == list(range(151, 1, -1))
    assert "group 151: 160 × the median channel" in str(found)


def test_a_map_of_nothing() -> None:
    assert 'width="568" height="58"' in str(heat_map("t", {}, {}))


def _bar(label: str = "", value: float = 1.0, note: str = "") -> Bar:
    return Bar(label=label, value=value, note=note, hover="", style="b1")


def test_long_labels_and_notes_lose_their_middle() -> None:
    bars = [_bar("a" * 56, note="n" * 72), _bar("start" + "b" * 60 + "end", note="first" + "m" * 90 + "last")]
    found = bar_chart(BarChart(bars=bars, label="x"))
    assert texts(found, "e c") == ["a" * 56, "start" + "b" * 23 + "…" + "b" * 24 + "end"]
    assert texts(found, "c") == ["n" * 72, "first" + "m" * 31 + "…" + "m" * 31 + "last"]
    assert [len(text) for text in texts(found, "e c") + texts(found, "c")] == [56, 56, 72, 72]


def test_bars_below_zero_end_at_zero() -> None:
    """From -10 to 10 are 420 px, after 14 px and one character of 6.7 px: zero stands at 230.7."""
    found = bar_chart(BarChart(bars=[_bar("a", -10.0), _bar("b", 10.0), _bar("c", 0.0)], label="x"))
    shapes = re.findall(r'<rect class="b1" x="([0-9.]+)" y="\d+" width="([0-9.]+)"', str(found))
    assert shapes == [("20.7", "210.0"), ("230.7", "210.0"), ("230.7", "1.0")]


def test_a_chart_of_no_bars() -> None:
    assert 'width="450" height="58"' in str(bar_chart(BarChart(bars=[], label="x")))


def test_columns_share_the_width_of_their_block() -> None:
    """Of 100 blocks each has 11.08 px; two columns share 84 % of it, and 90 % of each column's part is drawn."""
    found = column_chart("t", {i: [_bar(), _bar()] for i in range(100)}, "y", (0.1, 1.0))
    places = numbers(found, r'<rect class="b1" x="([0-9.]+)"')[:3]
    assert places == [62.9, 67.5, 74.0]
    assert set(numbers(found, r'<rect class="b1"[^>]* width="([0-9.]+)"')) == {4.2}
    assert texts(found, "m")[1:-1] == [str(i) for i in range(0, 100, 4)], "one label in four: at most 32"


def test_a_column_without_height_leaves_its_place_free() -> None:
    groups = {0: [_bar("a", 0.0), _bar("b", 1.0), _bar("c", 0.1)]}
    found = column_chart("t", groups, "x", (0.01, 1.0))
    first = 62.0 + 0.08 * 1108
    assert numbers(found, r'<rect class="b1" x="([\d.]+)"') == [round(first + 14, 1), round(first + 28, 1)]


def test_a_column_of_the_lowest_value_can_be_seen() -> None:
    found = column_chart("t", {0: [_bar(value=0.001), _bar(value=-1.0)]}, "y", (0.1, 1.0))
    assert numbers(found, r'<rect class="b1"[^>]* height="([0-9.]+)"') == [1.0]
    assert 'd="M62.0 98.0L1170.0 98.0"' in str(column_chart("t", {}, "y", (0.1, 1.0)))
