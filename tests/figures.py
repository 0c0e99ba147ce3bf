"""Helpers that the tests of figures share."""

from itertools import combinations

from matplotlib.figure import Figure


def assert_readable(figure: Figure) -> None:
    """All words lie within the figure, and no panel's title or legend lies on another's or on an axis' name."""
    figure.draw_without_rendering()
    page = figure.bbox.padded(1)
    boxes = []
    for axes in figure.axes:
        words = [axes._left_title, axes.xaxis.label, axes.yaxis.label, axes.get_legend(), *axes.texts]
        boxes += [(word, word.get_window_extent()) for word in words if word is not None and word.get_visible()]
    boxes = [(word, box) for word, box in boxes if box.width > 0]
    boxes += [(word, word.get_window_extent()) for word in [figure._suptitle, *figure.legends] if word is not None]
    for word, box in boxes:
        assert page.containsx(box.x0) and page.containsx(box.x1), word
        assert page.containsy(box.y0) and page.containsy(box.y1), word
    for (one, a), (other, b) in combinations(boxes, 2):
        assert not a.overlaps(b), (one, other)
    assert figure._repr_png_().startswith(b"\x89PNG")
