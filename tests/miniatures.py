"""Fabricates each dataset of the benchmark in miniature: its folders, names and ways to store a mask, as downloaded."""

import os
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 48, 32
TAMPERED = np.zeros((HEIGHT, WIDTH), bool)
TAMPERED[8:20, 10:30] = True  # in every mask
GREY = TAMPERED.astype(np.uint8) * np.uint8(255)

Expected = tuple[int, int, int, int]  # authentic, tampered, corrected masks, files left out


def fabricate(name: str, root: Path) -> Expected:
    """Writes the dataset called `name` below `root`, faulty files included, and says what `prepare` must make of it."""
    return _MAKERS[name](root)


def photograph(path: Path, size: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
    """Noise that only this path has."""
    pixels = np.random.default_rng(zlib.crc32(os.fsencode(path))).integers(0, 256, (size[1], size[0], 3), np.uint8)
    save(path, pixels)


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def _casia1(root: Path) -> Expected:
    photograph(root / "Au" / "Au_ani_0001.jpg")
    for part in ("Original Tp/Tp/CM", "Modified Tp/Tp/CM"):
        photograph(root / part / "Sp_S_CND_A_pla0016_pla0016_0196.jpg")
    photograph(root / "Modified Tp" / "Tp" / "Sp" / "Sp_D_NNN_A_nat0019_cha0039_0320.jpg")  # the two are swapped
    photograph(root / "Modified Tp" / "Tp" / "Sp" / "Sp_D_NRN_A_cha0011_sec0011_0542.jpg")  # has no mask
    photograph(root / "Modified Tp" / "Tp" / "Sp" / "Sp_D_NND_A_ani0041_ani0054.0257.jpg")  # a point, not a line
    save(root / "CASIA 1.0 groundtruth" / "CM" / "Sp_S_CND_A_pla0016_pla0016_0196_gt.png", GREY)
    save(root / "CASIA 1.0 groundtruth" / "Sp" / "Sp_D_NNN_A_cha0039_nat0019_0320_gt.png", GREY)
    save(root / "CASIA 1.0 groundtruth" / "Sp" / "Sp_D_NND_A_ani0041_ani0054_0257_gt.png", GREY)
    return 1, 3, 0, 1


def _casia2(root: Path) -> Expected:
    photograph(root / "Au" / "Au_ani_00001.jpg")
    photograph(root / "Au" / "Au_txt_30001.bmp")
    masks = root / "CASIA 2 Groundtruth"
    for image, mask in (
        ("Tp_D_CRN_S_N_nat00033_cha00086_11502.jpg", "Tp_D_CRN_S_N_nat00033_cha00086_11502_gt.png"),
        ("Tp_D_CNN_M_N_ind00091_ind00091_10647.jpg", "Tp_S_CNN_M_N_ind00091_ind00091_10647_gt.png"),  # misnamed
        ("Tp_D_NRD_S_N_cha10002_cha10001_20094.tif", "Tp_D_NRD_S_N_cha10002_cha10001_20094_gt3.png"),
    ):
        photograph(root / "Tp" / image)
        save(masks / mask, GREY)
    photograph(root / "Tp" / "Tp_S_NRN_S_N_pla20080_pla20080_01980.tif")
    save(masks / "Tp_S_NRN_S_N_pla20080_pla20080_01980_gt.png", GREY[:, 1:])  # two pixels narrower, in the original
    photograph(root / "Tp" / "Tp_S_NNN_S_N_sec00012_sec00012_11230.jpg")
    save(masks / "Tp_S_NNN_S_N_sec00012_sec00012_11230_gt.png", np.rot90(GREY))
    photograph(root / "Tp" / "Tp_D_NNN_M_B_art00037_nat10103_10108.tif")  # has no mask
    (root / "Tp" / "Thumbs.db").touch()
    return 2, 4, 1, 2


def _coverage(root: Path) -> Expected:
    for number in (1, 41):
        photograph(root / "image" / f"{number}.tif")
        photograph(root / "image" / f"{number}t.tif")
        for kind in ("copy", "paste", "forged"):
            size = (2 * WIDTH, 2 * HEIGHT) if number == 41 else (WIDTH, HEIGHT)  # 41 is of another size
            save(root / "mask" / f"{number}{kind}.tif", np.asarray(Image.fromarray(GREY).resize(size, 0)))
    return 2, 2, 1, 0


def _columbia(root: Path) -> Expected:
    root = root / "4cam_splc" / "4cam_splc"  # as archives unpack
    photograph(root.parents[1] / "4cam_auth" / "4cam_auth" / "canong3_02_sub_01.tif")
    for number in (1, 2):
        photograph(root / f"canong3_canonxt_sub_0{number}.tif")
        colours = np.where(TAMPERED[..., None], (0, 200, 0), (200, 0, 0)).astype(np.uint8)
        colours[:, 29:31] += (colours[:, 29:31] > 0) * np.uint8(55)  # the seam is brighter
        path = root / "edgemask" / f"canong3_canonxt_sub_0{number}_edgemask.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(colours).save(path, quality=95, subsampling=0)
    return 1, 2, 2, 0


def _nist16(root: Path) -> Expected:
    lines = ["TaskID|ProbeFileID|ProbeFileName|ProbeMaskFileName|IsTarget|BaseFileName"]
    for number in (1, 2):  # they share a mask
        photograph(root / "probe" / f"NC2016_000{number}.jpg")
        lines.append(
            f"manipulation|NC2016_000{number}|probe/NC2016_000{number}.jpg|"
            "reference/manipulation/mask/NC2016_9000.png|Y|world/x.jpg"
        )
    photograph(root / "probe" / "NC2016_0003.jpg")
    lines.append("manipulation|NC2016_0003|probe/NC2016_0003.jpg||N|")
    lines.append("manipulation|NC2016_0004|probe/NC2016_0004.jpg|reference/manipulation/mask/NC2016_9000.png|Y|")
    save(root / "reference" / "manipulation" / "mask" / "NC2016_9000.png", 255 - GREY)
    (root / "reference" / "manipulation" / "NC2016-manipulation-ref.csv").write_text("\n".join(lines) + "\n")
    return 0, 2, 2, 1


def _imd2020(root: Path) -> Expected:
    for folder, image in (("1a30g2", "c8tl5wn_0.jpg"), ("z14", "00030_fake.png")):
        photograph(root / folder / f"{folder}_orig.jpg")
        photograph(root / folder / image)
        save(root / folder / f"{Path(image).stem}_mask.png", np.dstack([GREY] * 3))
    photograph(root / "z14" / "00031_fake.jpg")  # has no mask
    return 2, 2, 0, 1


def _cocoglide(root: Path) -> Expected:
    for category, number in (("dining table", 114871), ("clock", 267351)):
        photograph(root / "real" / f"{category}_{number}.png")
        photograph(root / "fake" / f"glide_inpainting_val2017_{number}_up.png")
        save(root / "mask" / f"{category}_{number}_mask.png", GREY)
    return 0, 2, 0, 0


def _autosplice(root: Path) -> Expected:
    photograph(root / "Authentic" / "10017.jpg")
    for image in ("10017_0", "10017_1", "10031_2"):
        photograph(root / "Forged_JPEG100" / f"{image}.jpg")
        photograph(root / "Forged_JPEG75" / f"{image}.jpg")
    for number in (10017, 10031):
        save(root / "Mask" / f"{number}_mask.png", GREY)
    return 0, 3, 0, 0


def _tampered_coco(root: Path) -> Expected:
    for part, masks in (("cm", "cm_masks"), ("sp", "sp_masks"), ("bcm", "bcm_masks"), ("bcmc", "bcm_masks")):
        photograph(root / f"{part}_images" / "000000000009.jpg")
        save(root / masks / "000000000009.png", TAMPERED.astype(np.uint8))  # 0 and 1
        lines = [f"{part}_images/000000000009.jpg,{masks}/000000000009.png"]
        lines += [f"{part}_images/000000000010.jpg,{masks}/000000000010.png"] * (part == "cm")  # not there
        (root / f"{part}_COCO_train_list.txt").write_text("\n".join(lines) + "\n")
    return 0, 4, 4, 1


def _comp_raise(root: Path) -> Expected:
    for number in (1, 2):
        photograph(root / "90" / f"r000da54ft_{number}.jpg")
    return 2, 0, 0, 0


def _fantastic_reality(root: Path) -> Expected:
    photograph(root / "dataset" / "ColorRealImages" / "real.jpg")
    photograph(root / "dataset" / "ColorFakeImages" / "fake.jpg")
    (root / "dataset" / "SegmentationFake").mkdir()
    np.savez(root / "dataset" / "SegmentationFake" / "fake.npz", 3 * TAMPERED.astype(np.uint8)[None, ..., None])
    return 1, 1, 1, 0


def _comofod(root: Path) -> Expected:
    folder = root / "CoMoFoD_small_v2"
    for name in ("001_F", "001_O", "001_F_BC1", "001_O_JC1", "002_F", "002_O"):
        photograph(folder / f"{name}.png")
    save(folder / "001_B.png", GREY)
    save(folder / "001_M.png", np.dstack([GREY, GREY * 0, GREY]))  # coloured: which copy is which
    return 2, 1, 0, 1  # 002 has no mask


def _grip(root: Path) -> Expected:
    for number in (1, 2):
        photograph(root / "original_images" / f"TP_C01_00{number}.png")
        photograph(root / "forged_images" / f"TP_C01_00{number}_copy.png")
        save(root / "forged_images" / f"TP_C01_00{number}_gt.png", GREY)
    return 2, 2, 0, 0


def _misd(root: Path) -> Expected:
    photograph(root / "Au" / "Au_art_30340.jpg")
    for name in ("Sp_D_cha_00098_cha_00047_sec_00073_197", "Sp_D_ani_00061_sec_00059_arc_00100_173"):
        photograph(root / "Sp" / f"{name}.jpg")
    objects = root / "Ground Truth Masks" / "Sp_D_cha_00098_cha_00047_sec_00073_197"
    photograph(objects / "images" / "Sp_D_cha_00098_cha_00047_sec_00073_197.jpg")
    for number, columns in enumerate((slice(0, 20), slice(20, WIDTH))):
        part = GREY * 0
        part[:, columns] = GREY[:, columns]
        save(objects / "masks" / f"{number}.png", part)
    return 1, 1, 1, 1  # the other has no masks


def _ifs_tc(root: Path) -> Expected:
    folder = root / "dataset-dist" / "phase-01" / "training"
    photograph(folder / "pristine" / "0ac3f.png")
    photograph(folder / "fake" / "1b9e2.png")
    save(folder / "fake" / "1b9e2.mask.png", np.dstack([GREY] * 3))
    photograph(folder / "fake" / "2c8d1.png")  # has no mask
    return 1, 1, 0, 1


_MAKERS: dict[str, Callable[[Path], Expected]] = {
    "CASIAv1": _casia1,
    "CASIAv2": _casia2,
    "COVERAGE": _coverage,
    "Columbia": _columbia,
    "NIST16": _nist16,
    "IMD2020": _imd2020,
    "CocoGlide": _cocoglide,
    "AutoSplice": _autosplice,
    "tamperedCOCO": _tampered_coco,
    "compRAISE": _comp_raise,
    "FantasticReality": _fantastic_reality,
    "CoMoFoD": _comofod,
    "GRIP": _grip,
    "MISD": _misd,
    "IFS-TC": _ifs_tc,
}
