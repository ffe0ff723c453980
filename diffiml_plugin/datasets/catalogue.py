"""Datasets: the eleven of the benchmark (DiffIML, Table 1) and four more of real forgeries; where to ask for them."""

from dataclasses import dataclass
from pathlib import Path

from diffiml_plugin.errors import DiffIMLError, nearest

FRAMEWORK_LAYOUTS = (
    "IMDL-BenCo, ManiDataset: Tp/ and Gt/, paired by equal names or in order; Au/ for authentic images",
    'IMDL-BenCo, JsonDataset: [[image, mask | "Negative"], ...]',
    'ForensicHub: [{"path": image, "mask": mask | "Negative", "label": 0 | 1}, ...]',
)


@dataclass(frozen=True)
class DatasetEntry:
    """One dataset. `mvss`, `catnet`: its part in a protocol of Table 1, "train", "test" or "-"; of other sets both "-".

    `kinds`: how names of tampered images begin, and the manipulation that this means.
    """

    name: str
    what: str
    authentic: int  # images, as are all counts
    tampered: int
    mvss: str
    catnet: str
    licence: str
    source: str  # where to ask for it
    layout: str  # of the original download
    generative: bool = False
    also: tuple[str, ...] = ()  # other names in use
    kinds: tuple[tuple[str, str], ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return self.name, *self.also


CATALOGUE = (
    DatasetEntry(
        "CASIAv2",
        "splicing and copy-move of small photographs, some blurred afterwards; JPEG, TIFF, BMP",
        7491,
        5063,
        "train",
        "train",
        "research only; no formal licence is known",
        "github.com/namtpham/casia2groundtruth (masks, images), github.com/SunnyHaze/CASIA2.0-Corrected-Groundtruth",
        "Au/Au_*, Tp/Tp_*, masks Tp_*_gt.png in any folder; misnamed files are paired by their number at the end",
        also=("CASIA2", "CASIA2.0", "CASIA 2.0"),
        kinds=(("Tp_D_", "splice"), ("Tp_S_", "copy_move")),
    ),
    DatasetEntry(
        "FantasticReality",
        "scenes with pasted objects, masks by instance; JPEG",
        16592,
        19423,
        "-",
        "train",
        "set by its authors (Kniaz et al., NeurIPS 2019)",
        "its authors, zefirus.org; a link is in github.com/mjkwon2021/CAT-Net/issues/51",
        "ColorRealImages/*.jpg, ColorFakeImages/*.jpg, SegmentationFake/*.npz of the same names",
        also=("FR",),
    ),
    DatasetEntry(
        "tamperedCOCO",
        "COCO and RAISE photographs with regions spliced or copied by a program; JPEG",
        0,
        799441,
        "-",
        "train",
        "research only, under the terms of MS COCO and RAISE",
        "kaggle.com/datasets/qsii24/tampcoco (github.com/mjkwon2021/CAT-Net)",
        "{cm,sp,bcm,bcmc}_images/, *_masks/ and lists {cm,sp,bcm,bcmc}_COCO_list.txt (or _train_list.txt), "
        "lines `image,mask`",
        also=("tampCOCO",),
    ),
    DatasetEntry(
        "compRAISE",
        "RAISE photographs, compressed once or twice; authentic only; JPEG",
        24462,
        0,
        "-",
        "train",
        "research only, under the terms of RAISE",
        "kaggle.com/datasets/qsii24/compraise (github.com/mjkwon2021/CAT-Net)",
        "images in any folder; all of them are authentic",
    ),
    DatasetEntry(
        "CASIAv1",
        "splicing and copy-move of 384x256 photographs; JPEG",
        800,
        920,
        "test",
        "test",
        "research only; no formal licence is known",
        "github.com/namtpham/casia1groundtruth (masks, images)",
        "Au/Au_*, [Modified ]Tp/{CM,Sp}/Sp_*, masks Sp_*_gt.png; misnamed files are paired by their number at the end",
        also=("CASIA1", "CASIA1.0", "CASIA 1.0"),
        kinds=(("Sp_D_", "splice"), ("Sp_S_", "copy_move")),
    ),
    DatasetEntry(
        "COVERAGE",
        "copy-move where similar but genuine objects stand beside; TIFF",
        100,
        100,
        "test",
        "test",
        "non-commercial research only",
        "github.com/wenbihan/coverage",
        "image/N.tif authentic, image/Nt.tif tampered, mask/Nforged.tif",
    ),
    DatasetEntry(
        "Columbia",
        "splicing of two cameras' photographs, uncompressed; TIFF, BMP",
        183,
        180,
        "test",
        "test",
        "research only, no redistribution",
        "www.ee.columbia.edu/ln/dvmm/downloads/authsplcuncmp",
        "4cam_auth/*.tif, 4cam_splc/*.tif, 4cam_splc/edgemask/*_edgemask.jpg: green is spliced, red is not",
    ),
    DatasetEntry(
        "NIST16",
        "Nimble Challenge 2016: splicing, copy-move and removal, retouched by hand; JPEG",
        0,
        564,
        "test",
        "test",
        "research; registration with NIST",
        "mfc.nist.gov",
        "reference/manipulation/NC2016-manipulation-ref.csv names images in probe/ and masks, black where tampered",
        also=("NC2016", "NIST2016", "NIST"),
    ),
    DatasetEntry(
        "IMD2020",
        "manipulations found on the internet, with masks by hand; JPEG, PNG",
        414,
        2010,
        "test",
        "train",
        "set by its authors (Novozamsky et al., WACVW 2020)",
        "staff.utia.cas.cz/novozada/db",
        "a folder for each photograph: *_orig.jpg authentic, X.jpg or X.png tampered, X_mask.png",
        also=("IMD",),
    ),
    DatasetEntry(
        "CocoGlide",
        "objects of COCO photographs inpainted by GLIDE, 256x256; PNG",
        0,
        512,
        "test",
        "test",
        "research and non-profit use, under the terms of MS COCO",
        "github.com/grip-unina/TruFor",
        "fake/glide_inpainting_val2017_ID_up.png, mask/*_ID_mask.png; real/ is not part of the benchmark",
        generative=True,
    ),
    DatasetEntry(
        "AutoSplice",
        "regions of news photographs regenerated by DALL-E 2 from a text; JPEG quality 100",
        0,
        3621,
        "test",
        "test",
        "non-commercial research at educational institutions",
        "a form in github.com/shanface33/AutoSplice_Dataset",
        "Forged_JPEG100/ID_N.jpg (else JPEG90, JPEG75), Mask/ID_mask.png; Authentic/ is not part of the benchmark",
        generative=True,
    ),
    DatasetEntry(
        "CoMoFoD",
        "copies that were moved, turned, scaled or distorted, 512x512; masks hold the source too; PNG",
        200,
        200,
        "-",
        "-",
        "set by its authors (Tralic et al., ELMAR 2013)",
        "www.vcl.fer.hr/comofod",
        "NNN_F.png tampered, NNN_O.png authentic, NNN_B.png mask; post-processed versions, NNN_F_*, are not read",
        also=("CoMoFoD_small", "CoMoFoD_small_v2"),
    ),
    DatasetEntry(
        "GRIP",
        "copy-move by hand in 1024x768 photographs; PNG",
        80,
        80,
        "-",
        "-",
        "non-profit purposes only",
        "www.grip.unina.it (Cozzolino et al., IEEE TIFS 2015, copy-move)",
        "TP_CNN_NNN_copy.png tampered, TP_CNN_NNN_gt.png its mask, TP_CNN_NNN.png authentic, in any folder",
        also=("GRIP_CMFD", "CMFDdb_grip"),
    ),
    DatasetEntry(
        "MISD",
        "several objects spliced into a photograph of CASIA, 384x256, with loose masks; JPEG",
        618,
        300,
        "-",
        "-",
        "as its record says; its photographs are CASIA's, for research only",
        "zenodo.org/records/5525829 (Kadam et al., Data 2021)",
        "Au/*, Sp/NAME.jpg, Ground Truth Masks/NAME/masks/*: one mask for each object, here joined",
    ),
    DatasetEntry(
        "IFS-TC",
        "the training part of the IEEE Image Forensics Challenge 2013: splices and copies by hand, 1024x768; PNG",
        1050,
        450,
        "-",
        "-",
        "set by the challenge's organisers, for research",
        "ifc.recod.ic.unicamp.br/fc.website (gone; web.archive.org keeps its page of 2017)",
        "fake/NAME.png, fake/NAME.mask.png, pristine/*.png",
        also=("IFSTC", "IFS_TC"),
    ),
)


@dataclass(frozen=True)
class DatasetVariant:
    """What the authors' release trains or tests on in place of a dataset: a smaller rendering, or a part of it."""

    name: str
    of: str  # a name of the catalogue
    rule: str
    longest_side: int | None = None  # in pixels; larger images are shrunk to it
    part: str = ""  # of tamperedCOCO


_SHRUNK = (
    "images whose longer side is above 1024 pixels are shrunk to it, by averaging areas, their masks by the nearest "
    "pixel; kept as PNG beside the list. The release names this set and not its making: the rule is ours"
)
_PARTS = {"sp": "spliced", "cm": "copied", "bcm": "copied, with blurred borders", "bcmc": "copied, blurred, compressed"}
VARIANTS = (
    DatasetVariant("NIST16_1024", "NIST16", _SHRUNK, longest_side=1024),
    DatasetVariant("IMD_20_1024", "IMD2020", _SHRUNK, longest_side=1024),
    *(
        DatasetVariant(f"tampCOCO_{part}", "tamperedCOCO", f"its part `{part}` alone: regions {what}", part=part)
        for part, what in _PARTS.items()
    ),
)
NAMES = (*(entry.name for entry in CATALOGUE), *(variant.name for variant in VARIANTS))


def known_variant(name: str) -> DatasetVariant | None:
    """The variant called `name`, in upper or lower case, or None."""
    return next((variant for variant in VARIANTS if variant.name.lower() == name.lower()), None)


def find_entry(name: str) -> DatasetEntry:
    """The dataset called `name`, in upper or lower case. Raises DiffIMLError with the nearest name if there is none."""
    entry = known_entry(name)
    if entry is None:
        raise DiffIMLError(f"no dataset {name!r}{nearest(name, NAMES)} (there are {', '.join(NAMES)})")
    return entry


def known_entry(name: str) -> DatasetEntry | None:
    """The dataset called `name`, or None."""
    by_name = {word.lower(): entry for entry in CATALOGUE for word in entry.names}
    return by_name.get(name.lower())


def kind_of(dataset: str, image: str) -> str:
    """The manipulation that the name of a tampered image tells, such as "splice"; empty where it tells none."""
    entry = known_entry(dataset)
    name = Path(image).name
    return next((kind for start, kind in entry.kinds if name.startswith(start)), "") if entry else ""
