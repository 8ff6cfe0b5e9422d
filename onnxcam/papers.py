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

    @property
    def _who(self) -> str:
        names = [a.split()[-1] for a in self.authors.split(" and ")]
        return names[0] if len(names) == 1 else f"{names[0]} et al." if len(names) > 2 else " and ".join(names)

    @property
    def short(self) -> str:
        """As text cites it: names and year."""
        return f"{self._who} {self.year}"

    def __str__(self) -> str:
        return f"{self._who}, {self.title}, {self.venue} {self.year}, {self.url}"

    @property
    def bibtex(self) -> str:
        """An ``@article``, ``@inproceedings`` or, for software, ``@misc`` entry."""
        kind, place = ("article", "journal") if self.venue in _JOURNALS else ("inproceedings", "booktitle")
        kind, place = ("misc", "howpublished") if self.venue in _SOFTWARE else (kind, place)
        rows = {
            "author": self.authors, "title": f"{{{self.title}}}", place: self.venue, "year": self.year, "url": self.url,
        }  # fmt: skip
        return f"@{kind}{{{self.key},\n" + ",\n".join(f"  {k} = {{{v}}}" for k, v in rows.items()) + "\n}"


_SOFTWARE = ("OpenVINO XAI",)
_JOURNALS = (
    "arXiv",
    "Nature Machine Intelligence",
    "IEEE Transactions on Neural Networks and Learning Systems",
    "ACM Computing Surveys",
    "IEEE Transactions on Image Processing",
)

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
            "zhang2025finercam",
            "Ziheng Zhang and Jianyang Gu and Arpita Chowdhury and Zheda Mai and David Carlyn and Tanya Berger-Wolf "
            "and "
            "Yu Su and Wei-Lun Chao",
            "Finer-CAM: Spotting the Difference Reveals Finer Details for Visual Explanation",
            "CVPR",
            2025,
            "https://arxiv.org/abs/2501.11309",
        ),
        Paper(
            "zhou2016learning",
            "Bolei Zhou and Aditya Khosla and Agata Lapedriza and Aude Oliva and Antonio Torralba",
            "Learning Deep Features for Discriminative Localization",
            "CVPR",
            2016,
            "https://arxiv.org/abs/1512.04150",
        ),
        Paper(
            "pillai2021explainable",
            "Vipin Pillai and Hamed Pirsiavash",
            "Explainable Models with Consistent Interpretations",
            "AAAI",
            2021,
            "https://www.csee.umbc.edu/~hpirsiav/papers/gc_aaai21.pdf",
        ),
        Paper(
            "chattopadhay2018gradcampp",
            "Aditya Chattopadhay and Anirban Sarkar and Prantik Howlader and Vineeth N. Balasubramanian",
            "Grad-CAM++: Generalized Gradient-based Visual Explanations for Deep Convolutional Networks",
            "WACV",
            2018,
            "https://arxiv.org/abs/1710.11063",
        ),
        Paper(
            "fu2020axiom",
            "Ruigang Fu and Qingyong Hu and Xiaohu Dong and Yulan Guo and Yinghui Gao and Biao Li",
            "Axiom-based Grad-CAM: Towards Accurate Visualization and Explanation of CNNs",
            "BMVC",
            2020,
            "https://arxiv.org/abs/2008.02312",
        ),
        Paper(
            "jiang2021layercam",
            "Peng-Tao Jiang and Chang-Bin Zhang and Qibin Hou and Ming-Ming Cheng and Yunchao Wei",
            "LayerCAM: Exploring Hierarchical Class Activation Maps for Localization",
            "IEEE Transactions on Image Processing",
            2021,
            "https://doi.org/10.1109/TIP.2021.3089943",
        ),
        Paper(
            "muhammad2020eigencam",
            "Mohammed Bany Muhammad and Mohammed Yeasin",
            "Eigen-CAM: Class Activation Map using Principal Components",
            "IJCNN",
            2020,
            "https://arxiv.org/abs/2008.00299",
        ),
        Paper(
            "karmani2024kpcacam",
            "Sachin Karmani and Thanushon Sivakaran and Gaurav Prasad and Mehmet Ali and Wenbo Yang and Sheyang Tang",
            "KPCA-CAM: Visual Explainability of Deep Computer Vision Models using Kernel PCA",
            "arXiv",
            2024,
            "https://arxiv.org/abs/2410.00267",
        ),
        Paper(
            "fuad2020features",
            "Kazi Ahmed Asif Fuad and Pierre-Etienne Martin and Romain Giot and Romain Bourqui and Jenny Benois-Pineau "
            "and Akka Zemmari",
            "Features Understanding in 3D CNNs for Actions Recognition in Video",
            "IPTA",
            2020,
            "https://doi.org/10.1109/IPTA50016.2020.9286629",
        ),
        Paper(
            "cai2025cams",
            "Huaiguang Cai",
            "CAMs as Shapley Value-based Explainers",
            "arXiv",
            2025,
            "https://arxiv.org/abs/2501.06261",
        ),
        Paper(
            "collins2018deep",
            "Edo Collins and Radhakrishna Achanta and Sabine Süsstrunk",
            "Deep Feature Factorization for Concept Discovery",
            "ECCV",
            2018,
            "https://arxiv.org/abs/1806.10206",
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
        Paper(
            "wang2020scorecam",
            "Haofan Wang and Zifan Wang and Mengnan Du and Fan Yang and Zijian Zhang and Sirui Ding and Piotr Mardziel "
            "and Xia Hu",
            "Score-CAM: Score-Weighted Visual Explanations for Convolutional Neural Networks",
            "CVPR Workshops",
            2020,
            "https://arxiv.org/abs/1910.01279",
        ),
        Paper(
            "wang2020sscam",
            "Haofan Wang and Rakshit Naidu and Joy Michael and Soumya Snigdha Kundu",
            "SS-CAM: Smoothed Score-CAM for Sharper Visual Feature Localization",
            "arXiv",
            2020,
            "https://arxiv.org/abs/2006.14255",
        ),
        Paper(
            "naidu2020iscam",
            "Rakshit Naidu and Ankita Ghosh and Yash Maurya and Shamanth R. Nayak K. and Soumya Snigdha Kundu",
            "IS-CAM: Integrated Score-CAM for axiomatic-based explanations",
            "arXiv",
            2020,
            "https://arxiv.org/abs/2010.03023",
        ),
        Paper(
            "desai2020ablationcam",
            "Saurabh Desai and Harish G. Ramaswamy",
            "Ablation-CAM: Visual Explanations for Deep Convolutional Network via Gradient-free Localization",
            "WACV",
            2020,
            "https://doi.org/10.1109/WACV45572.2020.9093360",
        ),
        Paper(
            "byun2024reciprocam",
            "Seok-Yong Byun and Wonju Lee",
            "ReciproCAM: Lightweight Gradient-free Class Activation Map for Post-hoc Explanations",
            "CVPR Workshops",
            2024,
            "https://arxiv.org/abs/2209.14074",
        ),
        Paper(
            "byun2023vitreciprocam",
            "Seok-Yong Byun and Wonju Lee",
            "ViT-ReciproCAM: Gradient and Attention-Free Visual Explanations for Vision Transformer",
            "arXiv",
            2023,
            "https://arxiv.org/abs/2310.02588",
        ),
        Paper(
            "sundararajan2017axiomatic",
            "Mukund Sundararajan and Ankur Taly and Qiqi Yan",
            "Axiomatic Attribution for Deep Networks",
            "ICML",
            2017,
            "https://arxiv.org/abs/1703.01365",
        ),
        Paper(
            "smilkov2017smoothgrad",
            "Daniel Smilkov and Nikhil Thorat and Been Kim and Fernanda Viégas and Martin Wattenberg",
            "SmoothGrad: removing noise by adding noise",
            "arXiv",
            2017,
            "https://arxiv.org/abs/1706.03825",
        ),
        Paper(
            "hooker2019benchmark",
            "Sara Hooker and Dumitru Erhan and Pieter-Jan Kindermans and Been Kim",
            "A Benchmark for Interpretability Methods in Deep Neural Networks",
            "NeurIPS",
            2019,
            "https://arxiv.org/abs/1806.10758",
        ),
        Paper(
            "adebayo2018local",
            "Julius Adebayo and Justin Gilmer and Ian Goodfellow and Been Kim",
            "Local Explanation Methods for Deep Neural Networks Lack Sensitivity to Parameter Values",
            "ICLR Workshop",
            2018,
            "https://arxiv.org/abs/1810.03307",
        ),
        Paper(
            "erion2021improving",
            "Gabriel Erion and Joseph D. Janizek and Pascal Sturmfels and Scott M. Lundberg and Su-In Lee",
            "Improving performance of deep learning models with axiomatic attribution priors and expected gradients",
            "Nature Machine Intelligence",
            2021,
            "https://arxiv.org/abs/1906.10670",
        ),
        Paper(
            "lundberg2017unified",
            "Scott M. Lundberg and Su-In Lee",
            "A Unified Approach to Interpreting Model Predictions",
            "NeurIPS",
            2017,
            "https://arxiv.org/abs/1705.07874",
        ),
        Paper(
            "shrikumar2016not",
            "Avanti Shrikumar and Peyton Greenside and Anna Shcherbina and Anshul Kundaje",
            "Not Just a Black Box: Learning Important Features Through Propagating Activation Differences",
            "arXiv",
            2016,
            "https://arxiv.org/abs/1605.01713",
        ),
        Paper(
            "omeiza2019smooth",
            "Daniel Omeiza and Skyler Speakman and Celia Cintas and Komminist Weldermariam",
            "Smooth Grad-CAM++: An Enhanced Inference Level Visualization Technique for Deep Convolutional Neural "
            "Network Models",
            "arXiv",
            2019,
            "https://arxiv.org/abs/1908.01224",
        ),
        Paper(
            "srinivas2019full",
            "Suraj Srinivas and François Fleuret",
            "Full-Gradient Representation for Neural Network Visualization",
            "NeurIPS",
            2019,
            "https://arxiv.org/abs/1905.00780",
        ),
        Paper(
            "petsiuk2018rise",
            "Vitali Petsiuk and Abir Das and Kate Saenko",
            "RISE: Randomized Input Sampling for Explanation of Black-box Models",
            "BMVC",
            2018,
            "https://arxiv.org/abs/1806.07421",
        ),
        Paper(
            "openvino2024aise",
            "OpenVINO",
            "AISE: Adaptive Input Sampling for Explanation of Black-box Models",
            "OpenVINO XAI",
            2024,
            "https://github.com/openvinotoolkit/openvino_xai",
        ),
        Paper(
            "ribeiro2016why",
            "Marco Tulio Ribeiro and Sameer Singh and Carlos Guestrin",
            '"Why Should I Trust You?": Explaining the Predictions of Any Classifier',
            "KDD",
            2016,
            "https://arxiv.org/abs/1602.04938",
        ),
        Paper(
            "covert2021improving",
            "Ian Covert and Su-In Lee",
            "Improving KernelSHAP: Practical Shapley Value Estimation via Linear Regression",
            "AISTATS",
            2021,
            "https://arxiv.org/abs/2012.01536",
        ),
        Paper(
            "bousselham2025legrad",
            "Walid Bousselham and Angie Boggust and Sofian Chaybouti and Hendrik Strobelt and Hilde Kuehne",
            "LeGrad: An Explainability Method for Vision Transformers via Feature Formation Sensitivity",
            "ICCV",
            2025,
            "https://arxiv.org/abs/2404.03214",
        ),
        Paper(
            "abnar2020quantifying",
            "Samira Abnar and Willem Zuidema",
            "Quantifying Attention Flow in Transformers",
            "ACL",
            2020,
            "https://arxiv.org/abs/2005.00928",
        ),
    )
}
