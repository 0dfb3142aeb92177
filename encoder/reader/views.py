"""Views of a radiograph: one parser for DICOM headers, manifests and tables of pairs.

A statement is split into words without case, accents and punctuation, and each word is a sign of a projection or none.
A sign of an oblique, lateral or other projection outweighs a frontal one; a negation, and a frontal and a lateral view
in one statement, give ``"unknown"``. Codes are those of DICOM CID 4010, "DX View" (SNOMED CT and SRT), and RadLex.
"""

from __future__ import annotations

import re
import unicodedata
from difflib import get_close_matches
from functools import lru_cache
from typing import Literal, get_args

View = Literal["PA", "AP", "frontal", "lateral", "oblique", "other", "unknown"]
VIEWS: tuple[View, ...] = get_args(View)
FRONTAL: frozenset[str] = frozenset({"PA", "AP", "frontal"})

_CODES: dict[str, str] = {
    code: sign
    for sign, codes in {
        "PA": "272479007 R-10214 R-40888 RID43594",
        "AP": "399348003 R-10206 RID43583",
        "frontal": "399033003 R-10202 RID10521",
        "lateral": "399067008 R-102CD 399173006 R-10236 399198007 R-10232 399352003 R-10228 399260004 R-10224 30730003 "
        "G-A145 260432001 260436003 260437007 260438002 260442004 RID43591",
        "oblique": "399182000 R-102C1 399135007 R-10220 399006002 R-10212 399356000 R-40985 399038007 R-10210 "
        "399184004 R-10238 399236003 R-10234 399059000 R-10216 399312000 R-10208 399160007 R-10204 399132005 R-10252 "
        "399325008 R-10254 399004004 R-10246 399225005 R-10250 399288005 R-10248 399368009 R-10226 399099002 R-10230 "
        "260426006 R-40782 260427002 R-40783 260421001 260424009 RID43593 RID43596",
        "other": "399061009 R-10241 399110001 R-102C2 399162004 R-10242 399196006 R-10244 399242004 R-102C6 399351005 "
        "R-102C7 260499007 R-40810 399071006 R-102C3 399360002 R-10257 119376003 G-8300 399272005 R-102C5 399255003 "
        "R-10256 399335002 R-102C4 399316002 R-102C8 272474002 260450008 272456006 272476000 R-40885 RID43584",
        "decubitus": "260452000",
        "AP decubitus": "260430009 260434000",
    }.items()
    for code in codes.split()
}
# parts that make it another image than one of the chest, beside "chest" too; bones of the chest wall among them
_OTHER_PARTS = (
    "RIBS? COSTA(LE?S?|IS) COSTILLAS? COSTELAS? COTES? COSTAS COSTE RIPPEN.* GRIL PARRILLA STERN.* ESTERN.* CLAVIC.* "
    "SCAPUL.* ESCAPUL.* [BCHLST]?SPINES? SPINAL COLUMN.* COLUNA COLONNE VERTEB.* RACHIS [A-Z]*WIRBEL.* [BHL]WS BONES? "
    "BONY OSE[AO] OSSE[AO] OSSEUX KNOCHERN.* HEMITH?ORAX SHOULDERS? SCHULTER.* HOMBROS? EPAULES? ABD ABDOM.* "
    "BAUCH KUB CHESTABDOMEN BABYGRAM NECK HALS CUELLO CERVI.* SKULL SINUS.* PELVI.* BECKEN.* HIPS? KNEES? ELBOWS? "
    "O?ESOPHAG.* HANDS? WRISTS? FINGERS? FOOT ANKLES? LEGS? FEMUR HUMERUS EXTREMIT.* BREASTS? MAMM.* WHOLEBODY "
    "(THORACO|DORSO)?LUMB.* SACR.* COCCY.*"
)
OTHER_PART = re.compile(_OTHER_PARTS.replace(" ", "|"))
_SIGNS = {
    sign: re.compile(words.replace(" ", "|"))
    for sign, words in {
        # negation first: a word has the first sign that fits
        "negation": r"NOT NO NON NICHT KEINE? NEITHER NOR WITHOUT SANS SEM SENZA NONFRONTAL NONSTANDARD",
        "doubt": r"UNKNOWN UNK UNSPECIFIED UNDEFINED UNSURE UNCLEAR UNCERTAIN MAYBE POSSIBL[EY] PROBABL[EY] "
        r"EXCLUDED? REJECT(ED)? WRONG ERROR DESCONOCID[AO] INCONNU INCONNUE UNBEKANNT",
        "oblique": r"OBL.* OBIQUE SCHRAG.* SCHRAEG.* SCHUIN.* SKRA[A-Z]* SKOSN.* SIKM.* КОСА.* ΛΟΞ.* [LR][AP]O [LR]LO "
        r"OA[DIGSE] OP[DIGSE] FECHTER.* BOXERSTELLUNG MLO LMO",
        "other": r"SWIM.* LORD(O.*)? APIC.* APEX AXIA.* OTHERS? OTR[AO]S? AUTRES? ANDERE SCOUT TOPOGRAM TOMO.* "
        r"FLUORO.* MAGNIF.* TANGEN.* SUBTRACT.* TISSUES? SPECIMEN PHANTOM CC ML LM CRANI.* CAUD[AO].* CEPHAL.* ANGLED "
        r"ANGULAT.* SUBMENTO.* VERTICO.* ACANTHIO.* PARIETO.* ORBIT.* OCCIPIT.* OCCLUS.* PANORAM.* PLANTO.* "
        r"DORSOPLANTAR TRANSTHORA.* TRANSORAL WATERS TOWNES? CALDWELL STENVERS? SCHULLER GRASHEY OUTLET MORTI[CS]E "
        r"JUDET SUNRISE SKYLINE TWINING MERCHANT TUNNEL FROG.* ODONTOID " + _OTHER_PARTS,
        "decubitus": r"DECUB.* SEITENLAGE [LR]LD",
        "flat": r"SUPIN.* DORSAL.* VENTRAL.* PRONE PRONO RUCKENLAGE",  # decubitus of these is no side position
        "beam": r"XTABLE CROSSTABLE XTLAT XTL PROFILE?S? PROFILO PERFIL [LR]L LATEROLATERAL.*",
        "lateral": r"LATERAL(?!I[TDS]).* LATERO.* [LR]?LATS? LAT[LR] [LR]T?LATERAL LATERA TRANSLATERAL SEITLI.* SEITL "
        r"SEITEN.* SEITE SIDE SIDES SIDEVIEW SAGIT.* SIDOBILD ZIJDELINGS.* BOCZ?N.* БОКОВ.* ΠΛΑΓΙ.*",
        "PA": r"PA POST.*ANT.* DORSOVENTRAL ЗАДНЕПЕРЕДН.*",
        "AP": r"APS? ANT.*POST.* VENTRODORSAL ПЕРЕДНЕЗАДН.*",
        "frontal": r"FRONTAL.* FRONT FACE FRENTE ПРЯМ.*",
        "side": r"LEFT RIGHT LT RT IZQ IZQUIERD[AO] DERECH[AO] LINKS RECHTS GAUCHE DROITE?",
        "several": r"BOTH EBENEN",
    }.items()
}
_CHINESE = {  # and Japanese, Korean: without spaces between words
    "侧": "lateral", "側": "lateral", "斜": "oblique", "正位": "frontal", "正面": "frontal", "后前": "PA", "後前": "PA",
    "前后": "AP", "前後": "AP", "측면": "lateral", "정면": "frontal",
}  # fmt: skip
# words that are written together: CHESTPA, APLAT, PA_ERECT
_JOINED = [
    "PA", "AP", "LAT", "LATERAL", "FRONTAL", "CHEST", "THORAX", "TORAX", "LUNG", "FIELDS", "CXR", "ERECT", "UPRIGHT",
    "STANDING", "SUPINE", "PORTABLE", "PORT", "MOBILE", "LEFT", "RIGHT", "VIEW", "LLAT", "RLAT", "OBLIQUE", "RIBS",
    "SPINE", "DECUBITUS", "HORIZONTAL",
]  # fmt: skip
_SPLIT = re.compile("|".join(sorted(_JOINED, key=len, reverse=True)))
# misspelled words that decide against a frontal view; words with one of these inside mean something else
_MISSPELLED = ["LATERAL", "OBLIQUE", "SWIMMERS", "LORDOTIC", "DECUBITUS"]
_UNRELATED = re.compile("LATERALI[TDS].*|(BI|UNI|IPSI|CONTRA|COL)LATERAL.*")
_NUMBERS = {"TWO", "THREE", "DOS", "DUAS", "DEUX", "ZWEI", "DUE", "MULTIPLE", "SEVERAL"}
_COUNTED = re.compile("V|VW|VWS|VIEWS?|PROJ.*|PROY.*|PROI.*|INCIDEN.*|EB|EBENE.*|IMAGES?|FILMS?")
_LONGEST = 256
_NOTHING = {
    "", "NA", "NAN", "NAT", "ND", "NONE", "NULL", "UNK", "UNKNOWN", "UNSPECIFIED", "UNDEFINED", "MISSING", "NOT STATED",
    "NOT SPECIFIED", "NOT AVAILABLE", "NOT APPLICABLE", "NOT KNOWN",
}  # fmt: skip
_NEGLIGIBLE = {"GRID", "MARKER", "MARKERS", "CONTRAST", "PORTABLE", "LEITO"}  # after a negation; "no leito": in bed


def words_of(text: str) -> list[str]:
    """Split a text into words in capitals and numbers, without accents and punctuation.

    Single letters in a row are one word ("P.A."), as are words of :data:`_JOINED` written together two ("CHESTPA").
    """
    plain = unicodedata.normalize("NFKD", text).upper()
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    plain = re.sub(r"(?<![^\W_])(?:[^\W\d_][\W_]+)+[^\W\d_](?![^\W_])", lambda run: re.sub(r"[\W_]", "", run[0]), plain)
    plain = re.sub(r"\b(X|CROSS)[\W_]*TABLE", "XTABLE", plain)
    words: list[str] = []
    for word in re.findall(r"[^\W\d_]+|\d+", plain):
        parts = _SPLIT.findall(word)
        words += parts if "".join(parts) == word else [word]
    return words


@lru_cache(1024)
def stated(text: str) -> bool:
    """Tell whether a text is a statement, and not a word for nothing such as ``"unknown"`` or ``"nan"``."""
    return " ".join(words_of(text)) not in _NOTHING


def view_of(text: str) -> View:
    """Map a statement of the view, in words or as a code, to a view.

    Args:
        text: such as ``"PA"``, ``"L LAT"``, ``"XTABLE LATERAL"``, ``"Óblicua"`` or ``"399173006"``.

    Returns:
        ``"other"`` for projections such as swimmers, lordotic, axial and ribs; ``"unknown"`` where nothing is known, or
        the statement names several views. A lateral decubitus has a frontal beam and is PA, AP or frontal.
    """
    signs = signs_of(text)
    if "negation" in signs:
        return "unknown"
    for view in ("oblique", "other"):
        if view in signs:
            return view
    frontal = signs & FRONTAL
    if "lateral" in signs:
        return "unknown" if frontal else "lateral"
    if signs & {"doubt", "several"} or ("side" in signs and "decubitus" not in signs):
        return "unknown"
    if frontal & {"PA", "AP"} in ({"PA"}, {"AP"}):
        return "PA" if "PA" in frontal else "AP"
    return "frontal" if frontal or "decubitus" in signs else "unknown"


@lru_cache(1024)
def signs_of(text: str) -> frozenset[str]:
    """Collect the signs in a statement: views, and ``"decubitus"`` for a patient who lies on a side."""
    text = text[:_LONGEST]
    if code := _CODES.get(re.sub(r"[^\w-]", "", text).upper()):
        return frozenset(code.split())
    words = words_of(text)
    if words in (["L"], ["LA"]):
        return frozenset({"lateral"})
    composed = unicodedata.normalize("NFC", text)
    signs = {sign for part, sign in _CHINESE.items() if part in composed} | ({"doubt"} if "?" in text else set())
    for number, word in enumerate(words):
        after = words[number + 1] if number + 1 < len(words) else ""
        if _COUNTED.fullmatch(after) and (word in _NUMBERS or (word.isdigit() and 1 < int(word) < 10)):
            signs.add("several")
        elif word in ("L", "R"):
            signs.add("side")
        elif after in _NEGLIGIBLE and _SIGNS["negation"].fullmatch(word):
            continue
        elif pair := _direction(word, [after, *words[number + 2 : number + 3]]):
            signs.add(pair)
        else:
            signs |= _signs_of_word(word)
    if "decubitus" in signs and not signs & {"flat", "beam"}:
        signs -= {"lateral", "side"}
    elif "flat" in signs:
        signs -= {"decubitus"}
    return frozenset(signs - {"flat", "beam"} | ({"lateral"} if "beam" in signs else set()))


def _direction(word: str, following: list[str]) -> str | None:
    """Read a direction in two words: "postero anterior", "anterior to posterior"."""
    following = [one for one in following if one not in ("TO", "A")][:1]
    if word.startswith("POST") and following and following[0].startswith("ANT"):
        return "PA"
    return "AP" if word.startswith("ANT") and following and following[0].startswith("POST") else None


def _signs_of_word(word: str) -> set[str]:
    found = next((sign for sign, words in _SIGNS.items() if words.fullmatch(word)), None)
    if found is None and len(word) > 5 and not _UNRELATED.fullmatch(word):
        near = get_close_matches(word, _MISSPELLED, 1, 0.8)
        found = next((sign for sign, words in _SIGNS.items() if near and words.fullmatch(near[0])), None)
    return {found} if found else set()
