"""The papers that the methods come from, for links and for BibTeX."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Paper:
    """One publication.

    Attributes:
        key: BibTeX key: first author, year, a word of the title.
        authors: ``"Given Family and Given Family"``, as BibTeX separates them.
        title: in full.
        venue: conference or journal; ``"arXiv"`` for preprints.
        year: of that venue.
        url: where it can be read.
    """

    key: str
    authors: str
    title: str
    venue: str
    year: int
    url: str

    def __str__(self) -> str:
        names = [a.split()[-1] for a in self.authors.split(" and ")]
        who = names[0] if len(names) == 1 else f"{names[0]} et al." if len(names) > 2 else " and ".join(names)
        return f"{who}, {self.title}, {self.venue} {self.year}, {self.url}"

    @property
    def bibtex(self) -> str:
        """An ``@article`` or ``@inproceedings`` entry."""
        kind, place = ("article", "journal") if self.venue in _JOURNALS else ("inproceedings", "booktitle")
        rows = {
            "author": self.authors, "title": f"{{{self.title}}}", place: self.venue, "year": self.year, "url": self.url,
        }  # fmt: skip
        return f"@{kind}{{{self.key},\n" + ",\n".join(f"  {k} = {{{v}}}" for k, v in rows.items()) + "\n}"


_JOURNALS = ("arXiv", "IEEE Transactions on Neural Networks and Learning Systems", "ACM Computing Surveys")

PAPERS: dict[str, Paper] = {
    p.key: p
    for p in (
        Paper(
            "selvaraju2017gradcam",
            "Ramprasaath R. Selvaraju and Michael Cogswell and Abhishek Das and Ramakrishna Vedantam and Devi Parikh "
            "and Dhruv Batra",
            "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization",
            "ICCV",
            2017,
            "https://arxiv.org/abs/1610.02391",
        ),
        Paper(
            "draelos2020hirescam",
            "Rachel Lea Draelos and Lawrence Carin",
            "Use HiResCAM instead of Grad-CAM for faithful explanations of convolutional neural networks",
            "arXiv",
            2020,
            "https://arxiv.org/abs/2011.08891",
        ),
        Paper(
            "simonyan2013deep",
            "Karen Simonyan and Andrea Vedaldi and Andrew Zisserman",
            "Deep Inside Convolutional Networks: Visualising Image Classification Models and Saliency Maps",
            "arXiv",
            2013,
            "https://arxiv.org/abs/1312.6034",
        ),
        Paper(
            "springenberg2015striving",
            "Jost Tobias Springenberg and Alexey Dosovitskiy and Thomas Brox and Martin Riedmiller",
            "Striving for Simplicity: The All Convolutional Net",
            "ICLR Workshop",
            2015,
            "https://arxiv.org/abs/1412.6806",
        ),
        Paper(
            "zeiler2014visualizing",
            "Matthew D. Zeiler and Rob Fergus",
            "Visualizing and Understanding Convolutional Networks",
            "ECCV",
            2014,
            "https://arxiv.org/abs/1311.2901",
        ),
    )
}
