"""Profiles: the words of a prompt, the order of its images, and the cut of an answer into sections."""

from __future__ import annotations

from pathlib import Path

import pytest

from encoder.errors import ConfigError
from llava_rad.generation.answers import NO_ANSWER, REFUSED, REMOVED, UNFINISHED
from llava_rad.generation.profiles import Profile, load_profile, profile_of, shipped
from llava_rad.model.templates import Study

GENERIC = load_profile("generic")
FINDINGS = "The heart is enlarged. There is a small left pleural effusion."


def test_the_shipped_profiles_state_licence_and_source() -> None:
    found = {profile.name: profile for profile in shipped()}
    assert {"medgemma-4b-it", "medgemma-1.5-4b-it", "chexone", "lingshu-7b", "qwen3-vl", "generic"} <= set(found)
    for name, profile in found.items():
        assert not profile.tried, "no real weights were available"
        if name != "generic":
            assert (
                profile.repositories and profile.licence and all(one.startswith("https://") for one in profile.source)
            )


def test_a_profile_is_chosen_by_repository_folder_cache_and_type() -> None:
    assert profile_of("google/medgemma-4b-it", {"model_type": "gemma3"}).name == "medgemma-4b-it"
    assert profile_of(Path("/models/CheXOne"), {"model_type": "qwen2_5_vl"}).name == "chexone"
    cached = "/cache/hub/models--lingshu-medical-mllm--Lingshu-7B/snapshots/0123"
    assert profile_of(cached, {}).name == "lingshu-7b"
    assert profile_of("ours/fine-tuned", {"model_type": "qwen3_vl"}).name == "qwen3-vl"
    assert profile_of("/models/medgemma-4b-it-tuned", {"model_type": "gemma3"}).name == "generic"


def test_the_prompt_has_a_line_for_each_text_before_the_instruction() -> None:
    study = Study(prior=True, prior_report="No change.\n Clear.", indication="Cough {}")
    assert GENERIC.prompt(study) == (
        "Earlier report: No change. Clear.\nIndication: Cough {}\n"
        "Write the findings and the impression of the radiology report on this chest X-ray."
    )
    assert GENERIC.prompt(Study(), "What is seen?") == "What is seen?"


def test_images_stand_in_their_order_with_labels_if_there_are_several() -> None:
    words = GENERIC.instruction
    assert GENERIC.content(Study()) == [0, words]
    three = ["Frontal image:", 0, "Lateral image:", 1, "Earlier frontal image:", 2]
    assert GENERIC.content(Study(lateral=True, prior=True)) == [*three, words]
    assert GENERIC.content(Study(prior=True)) == ["Frontal image:", 0, "Earlier frontal image:", 1, words]
    assert load_profile("medgemma-4b-it").content(Study()) == [words, 0]


def test_inputs_without_a_place_are_refused() -> None:
    alone = Profile(name="alone", instruction="Describe this X-ray")
    assert alone.places == frozenset()
    for study in (Study(lateral=True), Study(indication="Cough"), Study(grounded=True)):
        with pytest.raises(ConfigError, match="no place for"):
            alone.prompt(study)
    with pytest.raises(ConfigError, match="needs the image"):
        GENERIC.prompt(Study(prior_report="Clear."))
    assert "grounded" not in GENERIC.places


@pytest.mark.parametrize(
    ("answer", "findings", "impression"),
    [
        (FINDINGS, FINDINGS, None),
        (f"Findings: {FINDINGS} Impression: Cardiomegaly.", FINDINGS, "Cardiomegaly."),
        (f"Findings: {{{FINDINGS}}} Impression: {{Cardiomegaly.}}", FINDINGS, "Cardiomegaly."),
        (f"**FINDINGS:**\n{FINDINGS}\n\n**IMPRESSION:**\nCardiomegaly.", FINDINGS, "Cardiomegaly."),
        (f"## Findings\n\n- The heart is enlarged.\n- {FINDINGS[23:]}", FINDINGS.replace(". T", ".\nT"), None),
        (f"{FINDINGS}\n\nIMPRESSION: Cardiomegaly.", FINDINGS, "Cardiomegaly."),
        ("**Impression**: 1. Cardiomegaly.", "", "Cardiomegaly."),
        (f"Findings suggest failure. {FINDINGS}", f"Findings suggest failure. {FINDINGS}", None),
        ("No comparison. The finding: none of note.", "No comparison. The finding: none of note.", None),
    ],
)
def test_sections_are_cut_out_of_an_answer(answer: str, findings: str, impression: str | None) -> None:
    found = GENERIC.split(answer)
    assert (found.findings, found.impression) == (findings, impression)
    assert found.notes == ()


def test_what_is_left_out_is_noted() -> None:
    answer = f"Here is the report.\n\n**Technique:** PA view.\n**Findings:** {FINDINGS}\n\nDisclaimer: I am no doctor."
    found = GENERIC.split(answer)
    assert found.findings == FINDINGS
    assert found.notes == ("left out of the model's answer: introduction, technique, disclaimer",)


def test_a_long_text_before_the_findings_heading_is_no_introduction() -> None:
    text = "The lungs are clear. " * 20
    assert GENERIC.split(f"{text}\nFindings: {FINDINGS}").findings == f"{text.strip()}\n{FINDINGS}"


def test_reasoning_is_cut_out_and_never_passes_for_findings() -> None:
    assert GENERIC.split(f"<think>The heart… \nis it large?</think>\n{FINDINGS}").findings == FINDINGS
    assert GENERIC.split(f"is it large?</think>{FINDINGS}").findings == FINDINGS  # the prompt held the first mark
    cut_off = GENERIC.split("<think>The heart is probably")
    assert (cut_off.findings, cut_off.notes) == ("", (UNFINISHED,))
    medgemma = load_profile("medgemma-1.5-4b-it")
    assert medgemma.split(f"<unused94>thought\nHm.<unused95>{FINDINGS}").findings == FINDINGS


def test_a_boxed_answer_is_the_answer() -> None:
    chexone = load_profile("chexone")
    assert chexone.split(f"Step 1: the heart.\n\\boxed{{{FINDINGS}}}").findings == FINDINGS
    assert chexone.split(f"Hm. \\boxed{{{{{FINDINGS}}}}} Done.").findings == FINDINGS
    assert chexone.split(f"\\boxed{{no}} wait \\boxed{{\\text{{{FINDINGS} 50\\%}}}}").findings == f"{FINDINGS} 50%"
    unmarked = chexone.split("Step 1: the heart may be enlarged.")
    assert (unmarked.findings, unmarked.notes) == ("", (NO_ANSWER,))


def test_refusals_and_marks_of_places() -> None:
    for answer in ("I'm sorry, but I cannot help.", "As an AI model I am", "I cannot interpret medical images."):
        assert GENERIC.split(answer) == GENERIC.split("").__class__("", notes=(REFUSED,))
    marked = GENERIC.split("An effusion<|box_start|>(10,20),(30,40)<|box_end|> on the left.")
    assert (marked.findings, marked.notes) == ("An effusion on the left.", (REMOVED,))


@pytest.mark.parametrize("name", [profile.name for profile in shipped()])
@pytest.mark.parametrize(
    "answer",
    [
        f"Findings: {FINDINGS} Impression: Cardiomegaly.",
        f"Here is the report:\n\n**Findings:**\n- {FINDINGS}\n1. None.\n\n**Impression:** Cardiomegaly.\n",
        f"<think>Is it\n**Findings:** a</think>{FINDINGS} " + "The lungs are clear. " * 30,
        f"{FINDINGS}\n" * 8 + "Impression: Cardiomegaly.",
        f"Hm. \\boxed{{{FINDINGS}}}",
        "I'm sorry, I cannot help with that.",
    ],
)
def test_a_stream_only_adds_to_what_was_shown(name: str, answer: str) -> None:
    profile, shown = load_profile(name), ""
    for length in range(len(answer)):
        text = profile.split(answer[:length], complete=False).text
        assert text.startswith(shown), (shown, text)
        shown = text
    assert profile.split(answer).text.startswith(shown)


def test_a_file_extends_a_shipped_profile(tmp_path: Path) -> None:
    file = tmp_path / "ours.yaml"
    file.write_text("extends: chexone\nname: ours\ninstruction: Describe it.\nboxed: false\n")
    ours = load_profile(file)
    assert (ours.prompt(Study()), ours.most_pixels, ours.licence[:8]) == ("Describe it.", 262144, "CC BY-NC")


def test_null_leaves_out_an_input_of_the_profile_that_is_extended(tmp_path: Path) -> None:
    file = tmp_path / "one.yaml"
    file.write_text("extends: generic\nname: one\nimages: {lateral: null, prior: null}\ntexts: {technique: null}\n")
    assert load_profile(file).places == {"indication", "comparison"}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("instruction: a\nprompt: b", "prompt"),
        ("instruction: a\nrefusals: ['(']", "no regular expression"),
        ("instruction: a\ntexts: {indication: 'Indication'}", "needs one"),
        ("instruction: a\ntexts: {age: 'Age: {}'}", "no text 'age'"),
        ("instruction: a\nimages: {lateral: '', frontal: ''}", "frontal image is the first"),
        ("instruction: ''", "instruction"),
        ("side: 56", "the key instruction is missing"),
        ("instruction: a\nside: 5", "side"),
    ],
)
def test_a_wrong_profile_is_refused_in_one_line(tmp_path: Path, lines: str, message: str) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(f"name: wrong\n{lines}\n")
    with pytest.raises(ConfigError, match=message) as raised:
        load_profile(file)
    assert "\n" not in str(raised.value)


def test_an_unknown_profile_names_the_shipped_ones() -> None:
    with pytest.raises(ConfigError, match="did you mean 'chexone'") as raised:
        load_profile("chexon")
    assert "qwen3-vl" in (raised.value.hint or "")
