"""Words that deny, doubt or question a mention, and those that end their reach.

They were written for this project, after the cues of NegBio (Peng et al. 2018, public domain) and ConText (Harkema et
al. 2009). All patterns are for lower-cased text.
"""

from __future__ import annotations

from typing import Final

_JUDGE = r"(?:assess|evaluat|exclud|rul(?:e|ed) out|confirm|determin|interpret|judg|delineat|establish)\w*"
_SEE = r"(?:see|visuali[sz]e|apprecia\w+|discern|detect|identify)"
HARD_TO_JUDGE: Final = (
    rf"(?:difficult|hard|impossible) to (?:\w+ly )?(?:{_JUDGE}|{_SEE})\b|"
    rf"(?:cannot|can not|could not) (?:be )?(?:\w+ly )?{_JUDGE}|"
    r"not (?:be )?(?:(?:well|fully|adequately|optimally|reliably|completely|entirely|definitely|definitively|clearly|"
    r"convincingly|confidently|certainly)[ -])(?:\w+ )?(?:seen|identified|present|visuali[sz]ed|evident|demonstrated|"
    r"appreciated|detected|noted|excluded|ruled out|assessed|evaluated|delineated|shown|visible)|"
    r"not (?:be )?(?:certain|sure|assessed|evaluated|excluded|ruled out|confirmed|assessable|evaluable)|"
    r"(?:poorly|incompletely|suboptimally|inadequately|partially) (?:assessed|evaluated|seen|visuali[sz]ed)"
)
# Written out before any phrase is looked for.
ABBREVIATIONS: Final = {
    "r/o": "rule out", "s/p": "status post", "w/o": "without", "w/": "with ", "h/o": "history of",
    "hx of": "history of", "c/w": "consistent with", "d/t": "due to", "vs.": "vs", "approx.": "approximately",
    "e.g.": "for example", "i.e.": "that is", "dr.": "dr", "cf.": "cf", "can't": "cannot",
    "won't": "will not", "n't": " not", "neg. for": "negative for",
}  # fmt: skip
# Headings of the parts that do not describe this image, and of those that do.
CONTEXT: Final = (
    r"(?:clinical |patient |relevant |past |medical )*(?:history|indications?|information|data|details|question)",
    r"reason for (?:the )?(?:exam\w*|study|request)",
    r"(?:clinical )?request",
    r"comparisons?",
    r"technique",
    r"(?:type of )?(?:exam\w*|procedure)",
)
READING: Final = (
    r"findings?", r"impressions?", r"conclusions?", r"(?:final )?report", r"opinion", r"interpretation", r"summary",
    r"results?", r"diagnos[ie]s",
)  # fmt: skip
# A line that ends or begins like this is a part of a sentence.
OPEN_ENDS: Final = (
    r"(?:,|\b(?:no|not|without|of|for|from|the|a|an|and|or|nor|with|in|on|at|to|by|as|than|is|are|was|were|has|have|"
    r"been|be|any|new|definite|focal|acute|pleural|pulmonary|small|mild|moderate|large|right|left|bilateral))\s*$",
)
OPEN_STARTS: Final = (
    r"\s*(?:and|or|nor|of|with|without|in|at|is|are|was|were|has|have|which|that|but|than|versus|vs)\b",
)

_PAST = (
    r"(?:before(?:hand)?|previously|earlier|yesterday|formerly|"
    r"(?:on|in|at) (?:the |a |any |her |his )?(?:\w+ )?(?:prior|"
    r"previous|earlier|last|comparison|old|older|preceding|initial)\b|"
    r"(?:on|in) (?:\w+ ){0,6}ago\b|(?:on|in) (?:19|20)\d\d)"
)
_SEEN = (
    r"(?:seen|identified|present|visible|visuali[sz]ed|evident|demonstrated|appreciated|noted|detected|apparent|"
    r"described|reported|recognized|found|shown)"
)
_CHANGE = (
    r"(?:change[sd]?|increase[sd]?|decrease[sd]?|improvement|improved|difference|different|worsening|worsened|worse|"
    r"better|progression|progressed|growth|grown|larger|smaller|bigger)"
)
_DEGREE = (
    r"(?:significant(?:ly)?|definite(?:ly)?|appreciabl[ey]|substantial(?:ly)?|acute|interval|apparent|marked(?:ly)?|"
    r"radiographic|much|any|further|clear|evidence (?:of|for)|signs? of|been|obvious(?:ly)?|relevant|major)"
)
# Words that resemble cues and deny or doubt nothing.
NO_CUES: Final = (
    rf"\b(?:no|not|without|neither) (?:{_DEGREE} )*{_CHANGE}\b(?: (?:in|of|from|since|compared))?",
    r"\b(?:no|not|without|unlikely|cannot) (?:to be |be |likely )*(?:larger|smaller|bigger|worse|better)\b",
    r"\b(?:not|unlikely)(?: (?:to be|be|necessarily|likely|definitely|clearly))* (?:new|acute|recent|old|chronic)\b",
    r"\bprobably (?=~|not (?:new|acute|recent|old|chronic))",
    r"\bnot only",
    r"\b(?:not|no longer) (?:\w+ly )?normal\b",
    r"\b(?:no|not) more than\b",
    r"\b(?:no|without) (?:evidence of |signs? of )?"
    r"(?=(?:\w+ ){1,3}(?:complications?|loosening|malfunction|malposition\w*)\b)",
    r"\bby no means (?!excluded|ruled out)",
    # The denial of an end is no denial: what has not resolved is there, and so is a remainder.
    r"\b(?:not|never|incomplete|incompletely|partial|partially|nearly|almost|near|fail\w* to|failure to|yet to)[ -]"
    r"(?:(?:yet|appear|seem|to|have|been|be|complete|completely|full|fully|entirely|totally|significantly|quite) )*"
    r"(?:resol\w+|clear\w*|disappear\w*|absent|free of|gone)(?: of)?",
    r"\b(?:no|without|lack of|absence of) (?:(?:interval|significant|complete|further|evidence of|signs? of) )*"
    r"(?:resolution|clearing|clearance|disappearance)(?: of)?",
    r"\b(?:resolved|cleared) (?:only )?(?:partial|partially|incompletely|in part)\b",
    r"\bno (?:evidence|sign|indication) that [^.,;]{0,40}? (?:resol|clear|disappear)\w*",
    rf"\b(?:not|never|absent|no longer) (?:\w+ly )?(?:{_SEEN} )?(?:\w+ )?{_PAST}",
    rf"\b(?:not|never) previously {_SEEN}",
    r"\bnot (?:on |in |at )?(?:the )?(?:left|right)\b",
    rf"\bnot (?:\w+ly )?{_SEEN} on (?:the )?(?:lateral|frontal|pa|ap|other|second)\b",
    r"\b(?:no|little|without|beyond)(?: longer)?(?: an?y?)? (?:doubt|question)\b",
    r"\bage[- ]indeterminate\b",
    r"\bindeterminate (?:in )?(?:age|chronicity|significance)",
    r"\b(?:uncertain|unknown|unclear|questionable) (?:clinical )?(?:age|chronicity|significance|etiology|cause)",
)
DENIALS: Final = (
    r"\bno\b",
    r"\bnot\b",
    r"\bwithout\b",
    r"\bnor\b",
    r"\bneither\b",
    r"\bnone\b",
    r"\bnothing\b",
    r"\bnever\b",
    r"\b(?:free|clear|cleared|clearing) (?:of|from)\b",
    r"\b(?:absence|absent|lack|resolution|disappearance|removal|clearing) of\b",
    r"\b(?:neg|negative) for\b",
    r"(?:^|[,;(] )(?:absent|nil|zero) (?=\w)",
    r"\brul(?:es|ed) out\b",
    r"\bexcludes\b",
    r"\bfail(?:s|ed)? to (?:show|demonstrate|reveal)\b",
    r"\bdenies\b",
    r"\brather than\b",
    r"\bno longer\b",
    r"(?<!has )(?<!have )(?<!been )(?<!is )(?<!are )\bresolved\b",
    r"\bhistory of\b",
    r"(?<!is )(?<!are )(?<!be )(?<!felt )\bunlikely (?!(?:and|to)\b)",
    r"\bunlikely that\b",
    r"\bunlikely to (?:\w+ )?(?:be|represent|reflect|indicate|mean|suggest|signify|have)\b",
)
# These deny the words before them.
DENIALS_AFTER: Final = (
    r"\b(?:is|are|was|were|has|have|been|now|be)(?: (?:now|been|since|also|completely|nearly))* (?:absent|"
    r"excluded|resolved|cleared|removed|ruled out)\b",
    r"\bnot (?:yet )?(?:develop|occur|form|recur|re-?appear|appear)(?:p?ed|red)?\b(?! (?:to|to be|as)\b)",
    rf"\b(?:not|never|no longer|cannot)(?: (?:be|been|now|otherwise|currently|directly))? "
    rf"(?:{_SEEN}|enlarged|suspected)\b",
    r"\b(?:resolved|removed|absent|discontinued)\b",
    r"\bwithdrawn\b(?! (?:by|to|into|slightly|\d))",
    r"\bunlikely\b(?! to (?!be (?:present|there)))",
)
# Directly after the mention, or after the last of several, as in a field of a form.
FIELDS_DENIED: Final = (
    r" ?[:=\u2013-] ?(?:there (?:is|are) )?(?:none|nil|no|n|0|false|absent|neg|negative|resolved|cleared|removed|"
    r"unlikely|not \w+|no (?:\w+ )?(?:evidence|signs?|findings?|abnormalit\w+))"
    rf"(?: (?:(?:is|are|was|were) )?{_SEEN})?\s*(?:[,;)(\u2013-]|$)",
)
# Directly after the mention.
DENIALS_NEXT: Final = (
    *FIELDS_DENIED,
    r" (?:\w+ )?removal\b",
    r" (?:(?:has|have|had|was|were|is|are) )?(?:been )?(?:excluded|ruled out)\b",
    r" (?:none|nil|no) ?(?:[,;)]|$)",
)
# Between mentions of one field.
IN_FIELD: Final = (r" ?/ ?| (?:and|or|&) ",)
DOUBTS: Final = (
    r"\bpossib\w+",
    r"\bprobab\w+",
    r"\bmay or may not\b",
    r"\bmay\b",
    r"\bmight\b",
    r"\bcould\b",
    r"\blikely\b",
    r"\bsuspect\w*",
    r"\bsuspicio\w+",
    r"\bquestion\w*",
    r"\bconcern\w*",
    r"\bpotential\w*",
    r"\bperhaps\b",
    r"\bmaybe\b",
    r"\bpresum\w+",
    r"\bworrisome\b",
    r"\bsuggest\w*",
    r"\bconsider(?:ed(?! unlikely)|ations?)?\b"
    r"(?! (?:\w+ ){0,2}(?:ct|mri|x-?rays?|imaging|views?|follow|repeat|comparison|films?)\b)",
    r"\bdoubt\w*",
    r"\bfavou?r\w*",
    r"\bunclear\b",
    r"\buncertain\b",
    r"\beither\b(?! (?:side|lung|hemi|base|apex|view|costo|hilum))",
    rf"\b(?:{HARD_TO_JUDGE})",
    rf"\b(?:cannot|unable to|not able to|not (?:\w+ ){{0,2}}?possible to) (?:\w+ly )?{_JUDGE}",
    r"\b(?:cannot|not)(?: be)?(?: \w+ly)? (?:exclude\w*|rule out)",
    r"\b(?:no|not)\b[^.,;]{0,30}? to (?:\w+ly )?(?:exclude|rule out)\b",
    r"\bexclusion of\b",
    r"\bnot (?:definite|clear|certain|convincing|obvious)ly (?:an?|the)\b",
    r"\b(?:limit\w*|poor|suboptimal|incomplete) (?:the )?(?:evaluation|assessment|sensitivity)"
    r"(?: of [^.,;]{0,30}?)? for\b",
    r"\b(?:if|whether|unless|should)\b",
    r"\bin (?:the )?(?:case|event) of\b",
    r"\bdifferential\b",
    r"\bversus\b",
    r"\bvs\b",
    r"\bborderline\b",
    r"\bequivocal\b",
    r"\b(?:not typical|atypical)(?: \w+)? (?:for|of)\b",
    r"\b(?:assessment|evaluation) (?:of|for) [^.,;]{0,40} (?:is|was) (?:\w+ )?limited",
    r"\bindeterminate\b",
    r"(?<!is )(?<!are )\bapparent\b",
    r"\bindicative\b(?= of possible)",
    r"\bup(?:per)? limits of normal\b",
    r"\?",
)
DOUBTS_AFTER: Final = (
    r"\b(?:is|are|was|were|be)(?: (?:also|only|both|all|each|still|not|thought|felt|to be))* "
    r"(?:possible|probable|likely|suspected|"
    r"questioned|questionable|considered(?! unlikely)|a (?:\w+ )?consideration|a possibility|a concern|favou?red|"
    r"doubtful|doubted|uncertain|unclear|equivocal)",
    rf"\b(?:{HARD_TO_JUDGE})",
    r"\b(?:not|never|by no means)(?: \w+ly)? (?:excluded|ruled out)",
    r"\b(?:may|might|could|can) (?:\w+ )?(?:be|have been) (?:missed|overlooked|obscured|hidden|masked|occult)",
    rf"\b(?:may|might|could) not be {_SEEN}",
    r"\b(?:remains?|is|are) (?:in|on|within|part of) the differential",
    r"\b(?:evaluation|assessment) (?:is|was) (?:\w+ )?limited",
    r"(?<!not )\bsuspected\b",
    r"\bin (?:doubt|question)\b",
    r"\?",
)
DOUBTS_NEXT: Final = (
    r",? ?(?:if|when) (?:\w+ly )?(?:present|any|real|there)\b",
    r" if (?:clinically|there)",
    r" ?[:=\u2013-] ?(?:possibl[ey]|probabl[ey]|questionable|equivocal|suspected|likely|uncertain|(?:cannot be|not) "
    r"excluded)\s*(?:[,;)(?]|$)",
    r"(?:(?! (?:-|is|are|may|represent\w*|reflect\w*)\b)[^,;:~\u2013-]){0,40}\b(?:versus|vs)\b",
    r" (?:is |are )?(?:(?:less|more|most|very|quite) )?(?:likely|possible|probable)\s*(?:$|[,;)(])",
)
# An open question is uncertain unless the text answers it.
QUESTIONS: Final = (
    r"\brule out\b",
    r"\b(?:to|please|and) (?:exclude|evaluate|assess|confirm)\b",
    r"^(?:exclude|query|check|look)\b",
    r"\b(?:evaluate|evaluation|assess|assessment|correlat\w+|look|looking|check|screening|screen)\b"
    r"(?: \w+)? for\b",
    r"\bquery\b",
)
_OPENS = (
    r"(?:stable|unchanged|persist\w+|again|interval|increas\w+|improv\w+|decreas\w+|worsen\w+|resolving|there|mild\w*|"
    r"moderate\w*|minimal\w*|severe\w*|continued|residual|small|tiny|trace|large|massive|extensive|bibasilar|bilateral|"
    r"chronic|old|healed|healing|known|subtle|possib\w+|probabl\w+|likely|presum\w+|suspect\w+|questionable|perhaps|may|"
    r"suggest\w+|concerning|suspicious|borderline|slight\w*|new|left|right)\b"
)
# A list that ends with "or" goes on under one denial, whatever its adjectives.
_NOT_IN_LIST = r"(?!(?:(?!\b(?:with|without|no|is|are|but)\b)[^.;:]){0,80}\bn?or\b)"
_PREDICATE = (
    rf"(?:persists?|remains?|measures?|appears?|continues?|shows?|demonstrates?|"
    rf"(?:is|are|has|have)(?! (?:\w+ )?{_SEEN}))"
)
_NOT_CLAUSE = "".join(
    f"(?<!{word} )"
    for word in ("if", "unless", "whether", "doubt", "that", "think", "believe", "feel", "likely", "perhaps", "suggest")
)
_COURSE = (
    r"(?:unchanged|stable|persist\w*|increas(?:ed|ing)|decreas(?:ed|ing)|larger|smaller|improv(?:ed|ing)|wors\w+|"
    r"resolving|enlarging)"
)
# The reach of a cue ends at these.
TURNS: Final = (
    r"\bbut\b",
    r"\bhowever\b",
    r"\balthough\b",
    r"\bthough\b",
    r"\byet\b",
    r"\bexcept\b",
    r"\bapart from\b",
    r"\baside from\b",
    r"\bother than\b",
    r"\b(?:while|whereas|whilst|despite|when)\b",
    rf"{_NOT_CLAUSE}\bthere (?:is|are|has|have)\b",
    r"\bwhich\b",
    r"(?<!be )\b(?:secondary|due|related) to\b",
    r"\b(?:(?<!be )given|because of|owing to|associated with|adjacent to)\b",
    r"\b(?:obscured|limited|caused|explained|hidden) by\b",
    r"\b(?:after|following|status post)\b",
    r"\bin the setting of\b",
    r"\b(?:without|with no) [^.,;]{0,60}? (?:is|are) (?=(?:concerning|suspicious|suggestive|consistent|compatible)\b)",
    r"\bwith(?= (?:a |an |the )?(?:mild|moderate|small|large|stable|persistent|unchanged|adjacent|associated|"
    r"overlying|some|bi\w+|left|right|minimal|increased|interval|residual|prominent|new))",
    r"\bwith(?= [\w -]{0,40}\bin (?:place|situ|position)\b)",
    rf"(?:, | / )(?={_OPENS}){_NOT_IN_LIST}",
    r", (?=(?:\d|\w+ \d[\d.x ]*(?:mm|cm)\b))",
    rf"\bno [^,;.]{{1,40}}, no [^,;.]{{1,40}}, (?!(?:no|and|or|nor)\b){_NOT_IN_LIST}",
    rf"(?<!if present)(?<!if real)(?<!if any), (?!(?:and|or|nor|which|that|if|when)\b)"
    rf"(?=[^,;:.]{{1,50}}? {_PREDICATE}\b)",
    rf"(?<!if present)(?<!if real)(?<!if any), "
    rf"(?=(?:(?!(?:and|or|nor|no|not|without|which|that|if|when)\b)[\w-]+ ){{1,4}}{_COURSE} ?"
    rf"(?:$|[,;)]|(?:from|since|compared|in (?:size|extent)|as before)\b)){_NOT_IN_LIST}",
    rf"\band (?:an? |(?={_OPENS}))(?!.{{0,40}}\b(?:not|absent)\b){_NOT_IN_LIST}",
    r"\band (?=(?:stable|unchanged|persistent|there|mild|moderate|minimal|mildly|continued|residual)\b)",
    rf"\band (?=[^,;:.]{{1,40}}? {_PREDICATE}\b)",
    rf"\b{_SEEN},? (?:and|with)\b",
    r"\((?=[^)]{0,60}\b(?:is|are|remains?|persists?|has|unchanged|stable|in place|in situ)\b)",
    r"\b(?:if|unless|should|whether)\b(?! (?:\w+ly )?(?:present|any|real)\b)[^,;]{0,80}, ",
    r" [\u2013-]{1,2} ",
    r";",
    r"\bthe (?:heart|lungs|cardiac|cardiomediastinal|mediastin\w+|aorta)\b",
    r"\b(?:heart|lungs) (?:is|are|remains?|appears?)\b",
    r"\bheart size\b",
)
# Directly after a mention these go on with it.
GOES_ON: Final = (r"(?:, )?(?:and|which)\b",)
_WORDS = (
    r"(?!(?:is|are|was|were|has|have|had|with|without|no|not|likely|unlikely|possib\w+|due|to|from|which|if|"
    rf"persists?|remains?|shows?|unchanged|stable|larger|smaller|increased|decreased|{_SEEN})\b)"
)
# Between two mentions of one list.
SAME_LIST: Final = (rf"[ ,/]*(?:{_WORDS}[a-z-]+[ ,/]+){{0,4}}",)
