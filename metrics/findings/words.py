"""Words about a finding: structures, qualities, sides, places, severity, change and position of tips.

All words are in the form of :func:`metrics.findings.lexicon.base_form`; alternatives are separated by "|".
"""

from __future__ import annotations

from typing import Final

# Structures, which become a finding together with a quality: "heart" and "large" are cardiomegaly.
STRUCTURES: Final[dict[str, str]] = {
    "heart": "heart|heart size|cardiac size|cardiac silhouette|cardiac shadow|cardiac contour|heart contour|"
    "cardiac|cardiac silhouette size|heart silhouette|cardiopericardial silhouette|cardiothymic silhouette|"
    "heart shadow|cardiac and thymic silhouette|size of the heart|size of the cardiac silhouette|"
    "cardiac chamber|cardiac diameter|cardiac border|heart border|transverse diameter of the heart|"
    "cardiothoracic ratio|left ventricular|cardiothymic contour",
    "atrium": "left atrium|atrial|left atrial",
    "ventricle": "left ventricle|ventricle",
    "cardiomediastinum": "cardiomediastinal silhouette|cardiomediastinal contour|cardiomediastinal|"
    "cardiomediastinum|cardio mediastinal silhouette|cardiac mediastinal silhouette|"
    "cardiac mediastinal contour|cardiomediastinal silhouette size|cardiomediastinal structure|"
    "cardiac and mediastinal silhouette|cardiac and mediastinal contour|cardiomediastinal size|"
    "heart and mediastinum|heart and mediastinal contour|mediastinal and cardiac silhouette|"
    "cardio mediastinal contour",
    "mediastinum": "mediastinum|mediastinal|mediastinal contour|mediastinal silhouette|mediastinal structure|"
    "mediastinal width|superior mediastinum|upper mediastinum|mediastinal border|paratracheal stripe|"
    "paratracheal line|paraspinal line|paravertebral line|junction line|anterior junction line|"
    "posterior junction line|azygoesophageal line|mediastinal line",
    "hilum": "hilum|hila|hilar|hilar contour|hilar structure|hilar region|hilus|hila structure|hilar shadow|"
    "pulmonary hilum|pulmonary hila",
    "aorta": "aorta|abdominal aorta|aortic|aortic knob|aortic arch|thoracic aorta|descending aorta|ascending aorta|"
    "aortic contour|descending thoracic aorta|arch of the aorta|aortic wall|thoracic aortic",
    "pulmonary artery": "pulmonary artery|main pulmonary artery|pulmonary arterial|pulmonary outflow tract|"
    "pulmonary arterial segment",
    "vessel": "pulmonary vasculature|pulmonary vascularity|vasculature|vascularity|pulmonary vessel|"
    "pulmonary vascular marking|vascular marking|pulmonary vascular|central vasculature|"
    "pulmonary vascular pattern|pulmonary venous vasculature|central pulmonary vasculature|pulmonary vein",
    "lung": "lung|both lung|bilateral lung|lung field|lung parenchyma|pulmonary parenchyma|lung zone|lobe|"
    "parenchyma|lingula|lung apex|lung base|pulmonary|pulmonary lobe",
    "interstitial marking": "interstitial marking|interstitium|pulmonary interstitium|interstitial lung marking|"
    "pulmonary interstitial marking|interstitial",
    "lung marking": "lung marking|pulmonary marking|bronchovascular lung marking|basilar marking|"
    "central lung marking|marking",
    "perihilar marking": "perihilar marking|peribronchial marking|parahilar marking|perihilar lung marking",
    "bronchovascular marking": "bronchovascular marking|bronchovascular structure",
    "lung volume": "lung volume|inspiratory effort|inspiratory volume|volume of the lung|inspiration|"
    "lung inflation|lung aeration",
    "airway": "airway|bronchial wall|peribronchial|bronchial|bronchus|airway wall|central airway|bronchiolar|"
    "peribronchiolar|bronchovascular bundle|large airway",
    "trachea": "trachea|tracheal|tracheal air column|tracheobronchial tree",
    "pleura": "pleura|pleural|pleural space|pleural surface|pleural cavity|apical pleura|biapical pleural|"
    "apical pleural|pleural margin",
    "costophrenic angle": "costophrenic angle|costophrenic sulcus|costophrenic recess|cp angle|costophrenic|"
    "lateral sulcus|posterior sulcus|pleural sulcus|cardiophrenic angle|pleural recess",
    "fissure": "fissure|minor fissure|major fissure|interlobar fissure|horizontal fissure|oblique fissure|fissural|"
    "fissure line|fissural line",
    "diaphragm": "diaphragm|hemidiaphragm|diaphragmatic|hemidiaphragmatic|hemidiaphragmatic height|"
    "diaphragmatic contour|diaphragmatic surface|hemi diaphragm",
    "bone": "bone|bone density|bone mineral density|bone mineralization|osseous structure|bony structure|"
    "skeletal structure|bony thorax|osseous|bony|skeleton|rib|clavicle|thoracic cage|rib cage|bony skeleton|"
    "osseous thorax|sternum|humerus|scapula|osseous thoracic structure|bony thoracic cage|thoracic skeleton|"
    "osseus structure|humeral head|bony framework|skeletal|thorax|clavicular|calvarium|growth plate",
    "spine": "spine|thoracic spine|vertebra|vertebral body|vertebral|lumbar spine|thoracolumbar spine|"
    "cervical spine|endplate|spinal|disc space|disk space|vertebral column|thoracic vertebra|"
    "thoracic vertebral body|lumbar vertebra|midthoracic spine|disc|thoracic disc space|midthoracic vertebral body|"
    "mid thoracic vertebral body|midthoracic vertebra|mid thoracic vertebra|anterior vertebral body|"
    "anterior thoracic vertebral body|lower thoracic vertebral body|upper thoracic vertebral body|end plate",
    "shoulder": "shoulder|glenohumeral joint|acromioclavicular joint|shoulder joint|ac joint|acromioclavicular",
    "soft tissue": "soft tissue|chest wall|overlying soft tissue|surrounding soft tissue|extrathoracic soft tissue|"
    "paraspinous soft tissue|paraspinal soft tissue|skin fold|skinfold|skin fold line",
    "abdomen": "abdomen|upper abdomen|bowel gas pattern|bowel gas|visualized abdomen|gas pattern|upper quadrant|"
    "upper abdominal structure",
    "bowel": "bowel|bowel loop|colon|small bowel|loop of bowel",
    "stomach": "stomach|gastric cardia|gastric bubble|gastric",
    "lymph node": "lymph node|hilar lymph node|mediastinal lymph node|node|hilar node",
    "valve": "aortic valve|mitral valve|mitral annulus|mitral annular|valvular|valve annulus",
    "chest": "chest|chest x ray|chest radiograph|chest film|chest exam|chest examination|radiograph|examination|"
    "study|exam|chest x|chest xray|thoracic structure",
}
# A clear or normal lung may be small or overinflated: these are not denied by it.
VOLUME: Final = frozenset(("low lung volumes", "hyperinflation", "bronchovascular crowding"))
# Qualities of a structure.
QUALITIES: Final[dict[str, str]] = {
    "large": "enlarged|enlargement|increased in size|enlarge|enlarging|mildly large|borderline in size|"
    "borderline size|borderline",
    "big": "large",
    "wide": "widened|widening|wide|dilated|dilatation|dilation|splayed",
    "prominent": "prominent|prominence|full|fullness|increased|accentuated|accentuation|coarse|coarsened|"
    "coarsening|increase|exaggerated|thickened|thickening|indistinct|indistinctness",
    "engorged": "engorged|engorgement|plethora|congested|cephalized",
    "tortuous": "tortuous|tortuosity|unfolded|unfolding|uncoiled|uncoiling|elongated",
    "ectatic": "ectatic|ectasia",
    "aneurysmal": "aneurysmal|aneurysmally",
    "calcified": "calcified|calcification|calcific|atherosclerotic|atherosclerosis|calcific density|"
    "mural calcification",
    "elevated": "elevated|elevation|raised|asymmetrically elevated",
    "eventration": "eventration|eventrated",
    "flat": "flattened|flattening|flat",
    "blunt": "blunted|blunting|obliterated|obliteration",
    "obscured": "obscured|obscuration",
    "thick": "thickening|thickened|cuffing",
    "shifted": "shift|shifted|deviated|deviation|displaced|displacement|narrowed",
    "low": "low|decreased|reduced|small|diminished|shallow|poor|limited|low in volume|suboptimal|lower",
    "high": "high|large|elevated|increased",
    "low in volume": "low in volume|low in lung volume",
    "fluid": "fluid|fluid collection",
    "collapsed": "collapsed|collapse",
    "fractured": "fractured|fracture",
    "wedge": "wedging|wedge|wedged|compressed|compression",
    "height loss": "height loss|loss of height|decreased height",
    "degenerative": "degenerative|degenerative change|degeneration|degenerative disease|arthritic|arthritic change|"
    "spurring|spondylotic change|hypertrophic",
    "curved": "curvature|curved|convexity|convex|curve",
    "demineralised": "demineralized|demineralised|osteopenic|demineralization",
    "distended": "distended|distention|distension",
    "resection": "resection|resected",
}
# Words that make a statement about structures a normal one.
NORMAL: Final = (
    "normal|unremarkable|within normal limit|clear|intact|sharp|midline|well aerated|well expanded|preserved|"
    "normally|in the midline|negative|within limit|normal in size|symmetrical|symmetric|nondisplaced trachea|"
    "maintained|within normal limit in size|normal size|normal in appearance|normal limit|well inflated|"
    "well defined|normal in caliber|normal in size and contour|benign|not remarkable|in normal limit|patent|"
    "within expected limit|top normal|upper normal|top normal in size|upper normal in size|upper limit of normal|"
    "upper limit normal|upper limit of normal in size|upper limit of normal size|high normal|normal variation|"
    "well visualized|appropriate in size|age appropriate"
)
# A denied mention of these covers the structures named with it, or the whole chest.
ABNORMALITY: Final = (
    "abnormality|abnormal|cardiopulmonary abnormality|cardiopulmonary disease|cardiopulmonary process|"
    "cardiopulmonary finding|pulmonary disease|pulmonary process|pulmonary abnormality|intrathoracic process|"
    "intrathoracic abnormality|thoracic abnormality|airspace abnormality|chest disease|disease|process|pathology|"
    "pulmonary finding|finding|osseous abnormality|bony abnormality|pleural disease|lung disease|change|"
    "cardiopulmonary change|acute chest process"
)
_LEFT, _RIGHT, _BOTH = "left", "right", "both"
SIDES: Final[dict[str, str]] = {
    _LEFT: "left|lt|left sided|left side|leftward|lul|lll|left upper extremity|left hemithorax",
    _RIGHT: "right|rt|right sided|right side|rightward|rul|rml|rll|right upper extremity|right hemithorax",
    _BOTH: "bilateral|b/l|bilat|bilaterally|both|both side|each|biapical|bibasilar|bibasal|both lung|bilateral lung|"
    "on both side|left and right|right and left|either side|bilateral basilar|bihilar|biapically",
}
# Places of the lung by level: 0 the apex, 1 the upper zone, 2 the middle one, 3 the lower one.
LEVELS: Final[dict[int, str]] = {
    0: "apex|apical|biapical|lung apex|apices|apico|biapically|apically",
    1: "upper lobe|rul|lul|upper lung|upper zone|upper lung zone|upper lung field|upper|suprahilar|"
    "upper hemithorax|upper lobar|apicoposterior",
    2: "mid lung|rml|midlung|mid|middle|middle lobe|mid lung zone|mid zone|perihilar|parahilar|middle lung|lingula|"
    "lingular|hilar|mid lung field|central|midlung zone|mid to",
    3: "lower lobe|rll|lll|lower lung|lower zone|lower lung zone|lower lung field|lower|base|basilar|basal|"
    "bibasilar|bibasal|lung base|infrahilar|retrocardiac|lower lobar|costophrenic|lower hemithorax|"
    "infrabasilar|posterior base|bibasally|bilateral basilar|basally|diaphragmatic|medial base",
}
SIDE_OF_PLACE: Final[dict[str, str]] = {
    "middle lobe": _RIGHT, "lingula": _LEFT, "lingular": _LEFT, "biapical": _BOTH, "bibasilar": _BOTH,
    "bibasal": _BOTH, "bilateral basilar": _BOTH,
}  # fmt: skip
# Levels of severity: 1 small, 2 moderate, 3 large; half a level is no difference between two readers.
SEVERITY: Final[dict[float, str]] = {
    0.5: "minimal|minimally|tiny|trace|minor|subtle|faint|minute|borderline|questionable|trivial|slight|slightly|"
    "scant|very small|miniscule|vague|millimetric|punctate",
    1.0: "mild|mildly|small|small sized|limited|small volume|mild degree|mild amount|small amount|mild sized|"
    "subcentimeter|sub centimeter",
    2.0: "moderate|mod|moderately|moderate sized|moderate amount|medium|moderate degree|moderate volume",
    3.0: "severe|severely|large|marked|markedly|massive|extensive|gross|grossly|significant|significantly|huge|"
    "substantial|severe degree|large sized|considerable|advanced|dense|very large|very|large amount|complete|"
    "near complete|enormous|prominent",
}
DEGREES: Final = frozenset(("borderline",))  # severities also where they are the quality that makes a finding
BETWEEN: Final = {  # two levels named together
    "mild to moderate": 1.5, "small to moderate": 1.5, "moderate to severe": 2.5, "moderate to large": 2.5,
    "minimal to mild": 0.5, "moderately severe": 2.5, "mild moderate": 1.5, "moderately large": 2.5,
    "mildly to moderately": 1.5, "minimal mild": 0.5, "small to moderate sized": 1.5, "moderate to marked": 2.5,
    "moderate to large sized": 2.5,
}  # fmt: skip
CHANGES: Final[dict[str, str]] = {
    "new": "new|newly|interval development|interval development of|newly seen|has developed|developing|"
    "newly evident|have developed|now seen|new from prior|newly apparent|interval appearance|interval placement|"
    "interval insertion|newly placed|recently placed|has been placed|have been placed",
    "worse": "worsening|worse|worsened|increasing|interval increase|progressed|progression|progressive|"
    "interval worsening|has increased|have increased|increased since|increased from|increased compared|larger|"
    "interval enlargement|interval progression|enlarging|more prominent|more conspicuous|slightly increased|"
    "increased in size|interval increase in|increased in the interval|slightly worse|mildly worse|"
    "more extensive|increased in severity|increase in|has progressed|have progressed|interval increased|"
    "greater than before|grown|has grown|have grown|interval growth",
    "better": "improving|improved|improvement|decreasing|interval improvement|interval decrease|resolving|smaller|"
    "has decreased|have decreased|decreased since|decreased from|decreased compared|interval decreased|less|"
    "near resolution|nearly resolved|partially resolved|decreased in size|interval clearing|"
    "interval resolution|slightly improved|decreased in the interval|less extensive|less severe|"
    "less pronounced|less prominent|less conspicuous|partial clearing|slightly decreased|interval reduction|"
    "near complete resolution|almost complete resolution|partial resolution|incomplete resolution|"
    "better aerated|improved aeration|interval improved|decrease in|has improved|have improved",
    "same": "stable|unchanged|persistent|persist|again|continued|no change|no significant change|similar|"
    "not significantly changed|no interval change|no significant interval change|remain|redemonstrated|stably|"
    "not changed|without change|without significant change|no appreciable change|similar in appearance|"
    "not significantly change|redemonstration|re demonstrated|similar to prior|persistently|"
    "without interval change|no substantial change|grossly unchanged|essentially unchanged|"
    "previously described|previously seen|continue|not improved|not significantly improved|not worsened|"
    "not progressed|no improvement|no interval improvement|no worsening|no progression|"
    "no interval worsening|no interval increase|neither improved nor worsened|no growth|not grown|no interval growth|"
    "no larger|not larger|no smaller|not smaller|no worse|not worse|no better|not better|no bigger|not bigger",
}
# Positions of the tip of a line or tube; see TIPS in weights.py for the good ones.
TIPS: Final[dict[str, str]] = {
    "svc": "svc|superior vena cava|vena cava|distal svc|lower svc|mid svc|proximal svc|upper svc|"
    "distal superior vena cava|lower superior vena cava|mid superior vena cava|proximal superior vena cava|"
    "caval",
    "cavoatrial junction": "cavoatrial junction|superior cavoatrial junction|caval atrial junction|"
    "cavo atrial junction|svc ra junction|atriocaval junction|svc right atrial junction",
    "right atrium": "right atrium|ra|high right atrium|right atrial",
    "right ventricle": "right ventricle|rv|right ventricular",
    "ivc": "ivc|inferior vena cava|intrahepatic ivc|intrahepatic inferior vena cava",
    "brachiocephalic vein": "brachiocephalic vein|innominate vein|brachiocephalic|innominate",
    "subclavian vein": "subclavian vein",
    "jugular vein": "jugular vein|internal jugular vein",
    "axillary vein": "axillary vein|axilla",
    "azygos vein": "azygos vein|azygos|azygous vein",
    "carina": "carina|tracheal carina|carinal bifurcation|carinal",
    "trachea": "mid trachea|upper trachea|distal trachea|thoracic inlet|level of the clavicle|clavicular head|"
    "medial clavicle",
    "main bronchus": "mainstem bronchus|main bronchus|right mainstem|left mainstem|bronchus intermedius|mainstem|"
    "main stem bronchus|main stem|right main stem|left main stem|right main bronchus|left main bronchus",
    "stomach": "stomach|gastric body|gastric fundus|fundus|gastric bubble|fundus of the stomach|"
    "body of the stomach|gastric antrum|left upper quadrant|proximal stomach|below the diaphragm|"
    "below the hemidiaphragm|beyond the field of view|off the film|below the field of view|"
    "below the edge of the film",
    "duodenum": "duodenum|small bowel|jejunum|pylorus|postpyloric",
    "esophagus": "esophagus|distal esophagus|gastroesophageal junction|ge junction|esophagogastric junction",
    "pulmonary artery": "main pulmonary artery|right pulmonary artery|left pulmonary artery|pulmonary outflow tract",
    "aorta": "descending aorta|aortic arch|thoracic aorta",
}
COUNTED: Final = frozenset((
    "nodule", "mass", "cavity", "opacity", "granuloma", "malignancy", "fracture", "vertebral compression",
    "bone lesion", "bulla", "lung abscess",
))  # fmt: skip
NUMBERS: Final[dict[str, str]] = {
    "many": "multiple|numerous|several|innumerable|multifocal|countless|many|scattered|few|two|three|four",
    "one": "single|solitary|isolated|unifocal",
}
POSITIONS: Final[dict[str, str]] = {
    "good": "satisfactory position|good position|appropriate position|appropriately positioned|well positioned|"
    "standard position|expected position|in satisfactory position|adequate position|in place|"
    "adequately positioned|proper position|in appropriate position|in standard position|in good position|"
    "satisfactorily positioned|expected location|appropriate location|satisfactory|in situ|normal position|"
    "in expected position|in well positioned|position is satisfactory|position is appropriate|"
    "properly positioned",
    "bad": "malpositioned|malposition|mal positioned|high position|low position|too high|too low|coiled|kinked|"
    "misplaced|should be withdrawn|should be advanced|withdrawal recommended|recommend retraction|"
    "recommend advancement|should be retracted|retract|need to be advanced|need to be withdrawn|"
    "recommend advancing|recommend withdrawing|suboptimal position|recommend repositioning|repositioning|"
    "withdraw|advance|advancement",
}
# Words that repeat the name of a device before them.
GENERIC: Final = frozenset(("catheter", "catheters", "line", "lines", "lead", "leads", "device"))
# Words between two names of one finding: the second explains the first, or is its alternative.
EXPLAINS: Final = (
    "suggestive of|suggestive for|compatible with|consistent with|in keeping with|representing|represent|reflect|"
    "reflecting|suggest|suggesting|due to|related to|secondary to|likely|probably|may represent|could represent|"
    "may reflect|indicating|suspicious for|concerning for|worrisome for|indicative of|characteristic of|versus|vs|"
    "attributed to|favor|favored|favoring|from|explained by|caused by|with appearance of|which may|possibly|"
    "perhaps|may be|could be|most consistent with|appearance of|presumed|typical of|diagnostic of|signify|"
    "indicated by|evidenced by|characterized by|suggested by|as evidenced by|and or|corresponding to|correspond to|"
    "like|so called|i e|for example|raise concern for|raising concern for|question of|concern for|"
    "as can be seen with|attributable to|or"
)
# Words that hold the name of a finding and name none.
NO_FINDINGS: Final = "mass effect|body mass|side port|proximal port|side hole|joint effusion|lead to|leads to|line of"
# Comparisons that need something to compare with: "less fluid than yesterday".
COMPARATIVES: Final = frozenset(
    ("less", "larger", "smaller", "more extensive", "worse", "less extensive", "less severe", "less pronounced")
)
# Sentences that begin so continue the finding before them.
CONTINUES: Final = frozenset(("this", "these", "finding", "appearance", "which", "it"))
PREPOSITIONS: Final = frozenset((
    "in", "within", "at", "on", "of", "over", "overlying", "involving", "throughout", "to", "near", "along",
    "measuring", "measure", "about", "across", "from", "around", "above", "below", "through", "adjacent",
    "greater", "worse", "more", "most", "than", "involve", "occupying", "abutting", "by", "projecting", "seen",
    "noted", "under", "for",
))  # fmt: skip
# Words before what is there although all else is normal or denied: "no effusion other than a small one".
EXCEPTIONS: Final = frozenset(("aside", "apart", "except", "other", "beyond", "besides"))
STOPS: Final = frozenset(["but", "however", "although", "though", "while", "whereas", "except"])
# Bones in which a fracture or lesion lies.
SITES: Final[dict[str, str]] = {
    "rib": "rib|rib fracture|rib deformity|rib lesion|broken rib",
    "clavicle": "clavicle|clavicular|clavicle fracture|clavicular fracture|clavicle deformity",
    "humerus": "humerus|humeral|humeral head|humeral neck|humeral fracture|proximal humerus",
    "sternum": "sternum|sternal|sternal fracture",
    "scapula": "scapula|scapular|glenoid",
    "spine": "spine|vertebra|vertebral body|thoracic vertebra|thoracic spine|vertebral fracture|lumbar spine",
    "shoulder": "shoulder|shoulder dislocation|acromioclavicular joint|glenohumeral joint",
}
# Numbers of ribs and vertebrae.
ORDINALS: Final[dict[str, str]] = {
    word: f"{number}"
    for number, names in enumerate(
        ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh",
         "twelfth"), 1
    )
    for word in (names, f"{number}th", f"{number}st", f"{number}nd", f"{number}rd")
}  # fmt: skip
