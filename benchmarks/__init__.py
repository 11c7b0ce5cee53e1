"""What the documentation's numbers come from. Run from the root of the repository:

`cost`: what an action costs, and training. `studies`: what guidance is worth, in success and
against laws that are known. `results`: what both have found, as JSON.
"""

from pathlib import Path

RESULTS = Path(__file__).parent / "results"
IMAGES = Path(__file__).parents[1] / "docs" / "images"
