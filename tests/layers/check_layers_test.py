"""The layer check finds what it is there to find, and nothing else."""

import pathlib
import tempfile
import unittest

import check_layers

DOT = """
  operators -> core
  model -> operators
  matrix_free -> model
"""


class CheckLayersTest(unittest.TestCase):
    def violations(self, path, include):
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            for name, text in {"docs/architecture.dot": DOT, path: f"#include {include}\n"}.items():
                (root / name).parent.mkdir(parents=True)
                (root / name).write_text(text)
            return list(check_layers.check(root))

    def test_allowed_includes_pass(self):
        for path, include in [
            ("src/model/a.cpp", "<curvature/operators/dense.hpp>"),
            ("src/matrix_free/a.cpp", '"core/check.hpp"'),
            ("src/core/a.cpp", "<fmt/core.h>"),
            ("src/cli/a.cpp", "<curvature/matrix_free/ggn.hpp>"),
            ("include/curvature/core/a.hpp", "<ATen/core/Tensor.h>"),
        ]:
            with self.subTest(path=path, include=include):
                self.assertEqual(self.violations(path, include), [])

    def test_forbidden_includes_are_found(self):
        for path, include in [
            ("src/core/a.cpp", "<curvature/operators/dense.hpp>"),
            ("src/operators/a.cpp", '"model/detail.hpp"'),
            ("include/curvature/operators/a.hpp", "<curvature/cli/options.hpp>"),
            ("src/matrix_free/a.cpp", "<curvature/operators/dense.hpp>"),
            ("src/core/a.cpp", "<torch/torch.h>"),
            ("include/curvature/core/a.hpp", "<ATen/ATen.h>"),
            ("include/curvature/core/a.hpp", "<Eigen/Dense>"),
            ("include/curvature/core/detail/a.hpp", "<nlohmann/json.hpp>"),
            ("src/elsewhere/a.cpp", "<vector>"),
        ]:
            with self.subTest(path=path, include=include):
                self.assertEqual(len(self.violations(path, include)), 1)


if __name__ == "__main__":
    unittest.main()
