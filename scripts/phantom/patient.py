"""Invented people: sex, age, ethnicity, height and weight, and how their bodies differ on a radiograph.

Sex, age, height and weight shape the image (breasts, aorta, spine, size, soft tissue) so that a probe can find them.
Ethnicity does not: it is drawn independently of every pixel, which makes it the negative control.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

#: values of MIMIC-IV's admissions.race (mimic.mit.edu/docs/iv/modules/hosp/admissions), a selection
ETHNICITIES = (
    "WHITE", "BLACK/AFRICAN AMERICAN", "HISPANIC/LATINO - PUERTO RICAN", "ASIAN - CHINESE", "ASIAN", "OTHER",
    "UNKNOWN",
)  # fmt: skip
_ETHNICITY_SHARE = (0.55, 0.16, 0.08, 0.06, 0.05, 0.06, 0.04)


def generator(*key: object) -> np.random.Generator:
    """Random generator that depends on the key alone, not on Python's hash seed or the order of calls."""
    digest = hashlib.sha256("\x1f".join(str(part) for part in key).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def hexadecimal(length: int, *key: object) -> str:
    """`length` hexadecimal digits that depend on the key alone."""
    return hashlib.sha512("\x1f".join(str(part) for part in key).encode()).hexdigest()[:length]


@dataclass(frozen=True)
class Patient:
    """One fictitious person.

    Attributes:
        key: seed of everything that stays the same in all images of this person.
        sex: "M" or "F".
        age: years, 18..95.
        ethnicity: a value of ETHNICITIES.
        height: cm.
        weight: kg.
    """

    key: str
    sex: str
    age: int
    ethnicity: str
    height: float
    weight: float

    @property
    def bmi(self) -> float:
        """kg / m^2."""
        return self.weight / (self.height / 100.0) ** 2


def sample_patient(*key: object) -> Patient:
    """Invent the person of a key."""
    rng = generator("patient", *key)
    sex = "M" if rng.random() < 0.5 else "F"
    age = int(np.clip(rng.normal(58, 19), 18, 95))
    ethnicity = str(rng.choice(ETHNICITIES, p=_ETHNICITY_SHARE))
    height = float(np.clip(rng.normal(176 if sex == "M" else 163, 7), 145, 200))
    bmi = float(np.clip(rng.gamma(18, 1.5), 16.5, 46))
    return Patient(
        key="/".join(str(part) for part in key), sex=sex, age=age, ethnicity=ethnicity, height=round(height, 1),
        weight=round(bmi * (height / 100) ** 2, 1),
    )  # fmt: skip
