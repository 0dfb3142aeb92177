"""One module per public data set; each says in its docstring where its folder and column names come from."""

from collections.abc import Mapping

from ..cohort import Layout
from . import candid_ptx, iu_xray, mimic_cxr, padchest, rsna_pneumonia, vindr

LAYOUTS: Mapping[str, Layout] = {
    "mimic-cxr": mimic_cxr.LAYOUT, "iu-xray": iu_xray.LAYOUT, "vindr-cxr": vindr.CXR, "vindr-ribcxr": vindr.RIBCXR,
    "candid-ptx": candid_ptx.LAYOUT, "rsna-pneumonia": rsna_pneumonia.LAYOUT, "padchest": padchest.LAYOUT,
}  # fmt: skip
