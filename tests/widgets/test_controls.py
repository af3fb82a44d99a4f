import ipywidgets as widgets

from sppo_lab.widgets.controls import choice, number, on_change, raise_to, switch, values_of


def test_field_and_slider_are_one_number():
    row = number("group size", 8, 2, 32, 1, "responses per prompt")
    field, slider, _ = row.children
    slider.value = 16
    assert field.value == 16
    field.value = 99  # out of range: the field keeps to its bounds
    assert (field.value, slider.value) == (32, 32)
    assert isinstance(field, widgets.BoundedIntText) and not slider.continuous_update


def test_every_control_has_a_name_and_a_sentence():
    for row in (
        number("p", 0.5, 0.0, 1.0, 0.01, "solve rate"),
        choice("kind", ["a", "b"], "a", "which"),
        switch("on", True, "s"),
    ):
        assert row.field.description
        assert getattr(row.field, "tooltip", None) or row.field.description_tooltip
        assert "<small" in row.note.value and "></small>" not in row.note.value


def test_a_range_that_grows_says_so():
    row = number("training step", 1, 1, 3, 1, "Of the run.")
    raise_to(row, 9)
    field, slider, note = row.children
    slider.value = 9
    assert field.value == 9 and "Of the run. From 1 to 9." in note.value


def test_values_are_read_by_name_and_changes_are_heard():
    controls = {"p": number("p", 0.5, 0.0, 1.0, 0.01), "kind": choice("kind", ["a", "b"], "b")}
    heard = []
    on_change(controls, lambda: heard.append(values_of(controls)))
    controls["p"].children[1].value = 0.25
    controls["kind"].field.value = "a"
    assert heard == [{"p": 0.25, "kind": "b"}, {"p": 0.25, "kind": "a"}]
