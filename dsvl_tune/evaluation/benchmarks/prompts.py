"""How VLMEvalKit asks, by its dataset classes at commit e8e78f0."""

from __future__ import annotations

from dsvl_tune.evaluation.benchmarks.rows import BenchmarkRow


def ask_choice(row: BenchmarkRow) -> str:
    """A multiple-choice question: hint, question, options (`ImageMCQDataset.build_prompt`)."""
    hint = f"Hint: {row.cells['hint']}\n" if "hint" in row.cells else ""
    question = f"{hint}Question: {row.text('question')}\n"
    if not row.options:
        return question
    options = "".join(f"{letter}. {text}\n" for letter, text in row.options.items())
    instruction = "Please select the correct answer from the options above. \n"
    return f"{question}Options:\n{options}{instruction}"


def ask_short(row: BenchmarkRow) -> str:
    """A question with a short answer (`ImageVQADataset.build_prompt`)."""
    return f"{row.text('question')}\nAnswer the question using a single word or phrase."


def ask_plainly(row: BenchmarkRow) -> str:
    """The question alone."""
    return row.text("question")
