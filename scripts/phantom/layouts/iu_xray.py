"""IU-Xray, twice: the Kaggle release (CSV) and the Open-i release (XML), with the same studies.

Sources of the facts:
- indiana_reports.csv (uid,MeSH,Problems,image,indication,comparison,findings,impression), indiana_projections.csv
  (uid,filename,projection) and images/images_normalized/<uid>_IM-nnnn-nnnn.dcm.png: rows quoted in public READMEs of
  raddar/chest-xrays-indiana-university.
- ecgen-radiology/<uid>.xml: element names and order of the real files (torchxrayvision data/NLMCXR_reports.tgz);
  NLMCXR_png/CXR<uid>_IM-nnnn-nnnn.png: parentImage ids of the same files.
"""

from __future__ import annotations

import shutil
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from ..cohort import Layout, Request, Study, Views, studies
from ..files import write_csv, write_image, write_text
from ..findings import Finding

REPORTS = ("uid", "MeSH", "Problems", "image", "indication", "comparison", "findings", "impression")
PROJECTIONS = ("uid", "filename", "projection")
_MESH = {
    "cardiomegaly": "Cardiomegaly", "aortic enlargement": "Aorta, Thoracic/enlarged",
    "pleural effusion": "Pleural Effusion", "costophrenic blunting": "Costophrenic Angle/blunted",
    "pneumothorax": "Pneumothorax", "consolidation": "Consolidation", "opacity": "Opacity",
    "edema": "Pulmonary Edema", "nodule": "Nodule", "mass": "Mass", "atelectasis": "Pulmonary Atelectasis",
    "rib fracture": "Fractures, Bone/ribs", "pleural thickening": "Thickening/pleura",
    "fibrosis": "Pulmonary Fibrosis", "tuberculosis": "Tuberculosis",
    "vertebral degeneration": "Thoracic Vertebrae/degenerative", "chest tube": "Tube, Inserted",
    "endotracheal tube": "Tube, Inserted", "gastric tube": "Tube, Inserted",
    "central line": "Catheters, Indwelling", "pacemaker": "Implanted Medical Device",
}  # fmt: skip


def _mesh(finding: Finding) -> str:
    parts = [_MESH[finding.kind]]
    if finding.zone:
        parts.append({"upper": "lung/upper lobe", "mid": "lung", "lower": "lung/base"}[finding.zone])
    if finding.side:
        parts.append(finding.side)
    if finding.kind == "pleural effusion":
        parts.append(finding.extent)
    elif finding.kind in ("cardiomegaly", "edema"):
        parts.append({"small": "mild", "large": "severe"}.get(finding.extent, finding.extent))
    return "/".join(parts)


def _texts(study: Study) -> dict[str, str]:
    """The text columns; some words are replaced by the collection's XXXX, some studies have no findings."""
    rng = study.rng
    image = "Xray Chest PA and Lateral" if len(study.views) > 1 else "PA chest radiograph"
    sex = "male" if study.patient.sex == "M" else "female"
    findings = study.report.findings if rng.random() > 0.13 else ""
    if findings and rng.random() < 0.4:
        findings = (
            findings.replace("There is no", "There is XXXX no", 1)
            if "There is no" in findings
            else findings + " XXXX XXXX are stable."
        )
    return {
        "image": image,
        "indication": f"XXXX-year-old {sex} with "
        + str(rng.choice(["cough.", "chest pain.", "dyspnea.", "positive TB test."])),
        "comparison": str(rng.choice(["None.", "XXXX, XXXX.", ""])),
        "findings": findings,
        "impression": " ".join(study.report.impression.split("\n")),
    }


_XML = """<?xml version="1.0" encoding="utf-8"?>
<eCitation>
   <meta type="rr"/>
   <uId id="CXR{uid}"/>
   <pmcId id="{uid}"/>
   <docSource>CXR</docSource>
   <IUXRId id="{uid}"/>
   <licenseType>open-access</licenseType>
   <publisher>Synthetic phantom</publisher>
   <title>Synthetic phantom, no patient</title>
   <subset>CXR</subset>
   <MedlineCitation Owner="Synthetic phantom" Status="supplied by publisher">
      <Article PubModel="Electronic">
         <ArticleTitle>Synthetic phantom, no patient</ArticleTitle>
         <Abstract>
{abstract}
         </Abstract>
      </Article>
   </MedlineCitation>
   <MeSH>
{mesh}
   </MeSH>
{images}
</eCitation>
"""
_IMAGE = """   <parentImage id={image}>
      <figureId>F{number}</figureId>
      <caption>{caption}</caption>
      <panel type="single">
         <imgModality>7</imgModality>
      </panel>
   </parentImage>"""


def _xml(uid: int, study: Study, texts: dict[str, str], images: list[str]) -> str:
    sections = ("comparison", "indication", "findings", "impression")
    return _XML.format(
        uid=uid,
        abstract="\n".join(
            f'            <AbstractText Label="{name.upper()}">{escape(texts[name])}</AbstractText>'
            for name in sections
        ),
        mesh="\n".join(f"      <major>{escape(name)}</major>" for name in map(_mesh, study.findings))
        or "      <major>normal</major>",
        images="\n".join(
            _IMAGE.format(image=quoteattr(image), number=number, caption=escape(texts["image"]))
            for number, image in enumerate(images, 1)
        ),
    )


def write(request: Request) -> None:
    """Write iu-xray/ (Kaggle) and open-i/ (XML and PNG)."""
    kaggle, openi = request.out / "iu-xray", request.out / "open-i"
    reports: list[list[Any]] = []
    projections: list[list[Any]] = []
    choices: Views = ((("PA", "LATERAL"), 0.88), (("PA",), 0.08), (("PA", "PA"), 0.04))
    for study in studies(request, "iu-xray", views=choices, normal=0.38):
        uid, texts = study.number + 1, _texts(study)
        mesh = ";".join(_mesh(f) for f in study.findings) or "normal"
        problems = ";".join(dict.fromkeys(_MESH[f.kind].split("/")[0] for f in study.findings)) or "normal"
        reports.append([uid, mesh, problems, *(texts[name] or None for name in REPORTS[3:])])
        names = []
        for index, view in enumerate(study.views):
            stem = f"{uid}_IM-{uid:04d}-{1 + index}001"
            phantom = study.image(index, request.size, square=False)
            target = kaggle / "images" / "images_normalized" / f"{stem}.dcm.png"
            write_image(target, phantom.grey())
            request.truth.add(target, phantom, split=study.split)
            projections.append([uid, target.name, "Lateral" if view == "LATERAL" else "Frontal"])
            names.append(f"CXR{stem}")
            copy = openi / "NLMCXR_png" / f"CXR{stem}.png"
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(target, copy)
        write_text(openi / "ecgen-radiology" / f"{uid}.xml", _xml(uid, study, texts, names))
    write_csv(kaggle / "indiana_reports.csv", REPORTS, reports)
    write_csv(kaggle / "indiana_projections.csv", PROJECTIONS, projections)


LAYOUT = Layout("iu-xray", "IU-Xray: Kaggle CSVs and Open-i XML", write)
