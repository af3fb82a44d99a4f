"""What a person does to a dashboard: type, press keys, drag, choose.  Every step ends with what must come of it."""

import re

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="no playwright here: pip install playwright")
Locator, Page, expect = playwright.Locator, playwright.Page, playwright.expect

AGREE = "([slider, value]) => Math.abs(parseFloat(slider.getAttribute('aria-valuetext')) - value) < 1e-6"


class Dashboard:
    """A dashboard on a page, found by its CSS class, such as ``lab-clip-explorer``."""

    def __init__(self, page: Page, name: str):
        self.page = page
        self.box = page.locator(f".{name}")
        self.box.scroll_into_view_if_needed()

    def control(self, name: str) -> Locator:
        """The row of a control, such as ``lab-dual-clip``."""
        return self.box.locator(f".lab-{name}")

    def field(self, label: str) -> Locator:
        """A field by the name that a screen reader says."""
        return self.box.get_by_label(label, exact=True)

    @property
    def image(self) -> Locator:
        return self.box.locator(".lab-picture img")

    @property
    def words(self) -> Locator:
        return self.box.locator(".lab-words")

    def redrawn(self, act, changed: bool = True) -> None:
        """Do something after which the picture must be another one, or the same."""
        before = self.image.get_attribute("src")
        act()
        if changed:
            expect(self.image).not_to_have_attribute("src", before)
        else:
            expect(self.image).to_have_attribute("src", before)

    def type(self, label: str, text: str) -> None:
        """Type a number into a field, by keyboard alone."""
        self.field(label).focus()
        self.page.keyboard.press("Control+A")
        self.page.keyboard.type(text)
        self.page.keyboard.press("Tab")

    def step(self, label: str, key: str = "ArrowUp") -> None:
        """One step of a number field by an arrow key."""
        self.field(label).press(key)
        self.page.keyboard.press("Tab")

    def arrow(self, name: str, key: str) -> None:
        """One step of a slider by an arrow key."""
        self.control(name).locator("[role=slider]").press(key)

    def drag(self, name: str, share: float) -> None:
        """Take the slider by the mouse to a share of its way."""
        track = self.control(name).locator(".noUi-target")
        track.scroll_into_view_if_needed()
        handle, way = track.locator(".noUi-handle").bounding_box(), track.bounding_box()
        self.page.mouse.move(handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2)
        self.page.mouse.down()
        self.page.mouse.move(way["x"] + share * way["width"], way["y"] + way["height"] / 2, steps=6)
        self.page.mouse.up()

    def choose(self, label: str, key: str = "ArrowDown") -> None:
        """The next entry of a list, by keyboard: open it, move, take it."""
        self.field(label).focus()
        for pressed in ("Space", key, "Enter"):
            self.page.keyboard.press(pressed)

    def value(self, label: str) -> float:
        return float(self.field(label).input_value())

    def try_number(self, label: str, name: str, redraws: bool = True) -> None:
        """A number by all four ways: typing, arrow in the field, arrow on the slider, dragging the slider.

        The field and the slider agree after each, and the picture is drawn anew where ``redraws``.
        """
        slider = self.control(name).locator("[role=slider]")
        low, high = (float(self.field(label).get_attribute(end)) for end in ("min", "max"))
        size = float(self.field(label).get_attribute("step") or 1)
        middle = low + size * round((high - low) / 2 / size)
        middle += size if middle == pytest.approx(self.value(label)) else 0
        ways = (
            lambda: self.type(label, f"{middle:g}"),
            lambda: self.step(label, "ArrowUp"),
            lambda: self.arrow(name, "ArrowLeft"),
            lambda: self.drag(name, 0.9),
        )
        for number, act in enumerate(ways):
            before = self.value(label)
            self.redrawn(act) if redraws else act()
            expect(self.field(label)).not_to_have_value(re.compile(rf"^{before:g}$"))
            now = self.value(label)
            self.page.wait_for_function(AGREE, arg=[slider.element_handle(), now])
            assert low <= now <= high
            if number == 0:
                assert now == pytest.approx(middle)
        assert self.value(label) > middle  # where the mouse took it
