"""A small suite that the quality manager runs: it tests what the other two do."""

import unittest

from examples.personas.engineering_manager import code_review, dependency_check, security_scanner, technical_debt_tracker
from examples.personas.product_manager import Feature, Month, in_order, placed


class Reviewing(unittest.TestCase):
    def test_good_source_is_approved(self) -> None:
        self.assertTrue(code_review('def f() -> int:\n    """One."""\n    return 1\n').approved)

    def test_what_is_no_python_is_refused(self) -> None:
        self.assertEqual(code_review("def f(:").findings[0].severity, "error")

    def test_shared_defaults_are_found(self) -> None:
        self.assertIn("share", code_review("def _f(a=[]): ...").findings[0].text)

    def test_eval_is_found(self) -> None:
        self.assertEqual([found.line for found in security_scanner("x = 1\neval(input())")], [2])

    def test_imports_are_sorted_out(self) -> None:
        found = dependency_check("import os, pydantic, no_such_package")
        self.assertEqual((found.standard, list(found.installed), found.missing), (["os"], ["pydantic"], ["no_such_package"]))

    def test_promises_are_found(self) -> None:
        self.assertEqual([found.line for found in technical_debt_tracker("a = 1\nb = 2  # TODO later")], [2])


class Planning(unittest.TestCase):
    def test_value_for_effort_comes_first(self) -> None:
        features = [Feature(name="slow", effort=8), Feature(name="quick", effort=1), Feature(name="first", effort=50)]
        self.assertEqual([each.name for each in in_order(features)], ["quick", "slow", "first"])

    def test_nothing_comes_before_what_it_needs(self) -> None:
        features = [Feature(name="roof", effort=1, after=["wall"]), Feature(name="wall", effort=9)]
        self.assertEqual([each.name for each in in_order(features)], ["wall", "roof"])

    def test_a_circle_is_refused(self) -> None:
        with self.assertRaises(ValueError):
            in_order([Feature(name="hen", after=["egg"]), Feature(name="egg", after=["hen"])])

    def test_a_feature_may_take_several_months(self) -> None:
        months = [Month(month=1), Month(month=2)]
        self.assertTrue(placed(Feature(name="big", effort=12), months, 8, []))
        self.assertEqual([month.features for month in months], [[], ["big"]])

    def test_what_does_not_fit_is_left_out(self) -> None:
        self.assertFalse(placed(Feature(name="big", effort=12), [Month(month=1)], 8, []))
