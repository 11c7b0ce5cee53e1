import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--cost-methods", nargs="+", default=["flow", "qgf", "qgf-jacobian"])
    parser.addoption("--cost-widths", nargs="+", type=int, default=[128])
    parser.addoption("--cost-batches", nargs="+", type=int, default=[1, 16])


def pytest_generate_tests(metafunc) -> None:
    for name in ("method", "width", "batch"):
        plural = "batches" if name == "batch" else f"{name}s"
        metafunc.parametrize(name, metafunc.config.getoption(f"--cost-{plural}"))
