"""The page: a picture, a question, the answers next to each other, and a verdict."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from dsvl_tune.core.errors import UserError
from dsvl_tune.playground.answering import (
    Asked,
    Column,
    conversation_about,
    read_picture,
    stream_answers,
)
from dsvl_tune.playground.verdicts import OPEN, ROWS, Verdict, VerdictFolder

STYLE = Path(__file__).with_name("page.css")
FONT = ("system-ui", "sans-serif")
MONO = ("ui-monospace", "monospace")
"""Fonts of the reader's own machine: nothing is loaded from elsewhere."""
INTRODUCTION = "Everything stays on this machine."
FILE_BYTES = 200_000_000
"""Largest upload: the largest picture that is read, uncompressed."""
HOST = "127.0.0.1"
HIDDEN, SHOWN = gr.update(visible=False), gr.update(visible=True)


@dataclass(frozen=True)
class Page:
    """The page with its handlers.

    Attributes:
        columns: The models, one or two; the last one is judged.
        verdicts: Where verdicts are kept.
        system: System prompt; None takes the checkpoints' own.
        max_new_tokens: Length of the longest answer.
    """

    columns: Sequence[Column]
    verdicts: VerdictFolder
    system: str | None
    max_new_tokens: int

    def build(self) -> gr.Blocks:
        """Lay out the page and connect its parts."""
        with gr.Blocks(title="dsvl-tune demo", analytics_enabled=False) as blocks:
            gr.Markdown(f"# Ask about a picture\n{INTRODUCTION}")
            asked = gr.State()
            with gr.Row():
                with gr.Column(scale=2, min_width=300):
                    picture = gr.Image(
                        type="filepath",
                        image_mode=None,  # the file as it was dropped: gradio decodes nothing
                        sources=["upload", "clipboard"],
                        label="Picture",
                        height=400,
                        buttons=["fullscreen"],
                    )
                with gr.Column(scale=3, min_width=300):
                    question = gr.Textbox(
                        label="Question", placeholder="What is the total?", max_lines=6
                    )
                    with gr.Row():
                        ask = gr.Button("Ask", variant="primary", min_width=120)
                        stop = gr.Button("Stop", min_width=120)
                    with gr.Row():
                        answers = [_answer_box(column) for column in self.columns]
                    verdict = self._add_verdict(asked)
            answering = gr.on(
                [question.submit, ask.click],
                self.ask,
                [picture, question],
                [asked, *answers, verdict],
                api_name="ask",
            )
            stop.click(None, cancels=answering, api_visibility="private")
        return blocks

    def _add_verdict(self, asked: gr.State) -> gr.Column:
        """Add what judges the last answer; returns what holds it."""
        with gr.Column(visible=False) as group:
            which = "the tuned model's answer" if len(self.columns) > 1 else "the answer"
            gr.Markdown(f"**Is {which} right?**")
            with gr.Row():
                right = gr.Button("Right", min_width=100)
                wrong = gr.Button("Wrong", min_width=100)
            correct = gr.Textbox(
                label="Or type the right answer and press Enter", max_lines=6, submit_btn="Save"
            )
        status = gr.Markdown(self.status())
        shown = [group, correct, status]
        right.click(self.judge_right, asked, shown, api_name="right")
        wrong.click(self.judge_wrong, asked, shown, api_name="wrong")
        correct.submit(self.judge_corrected, [asked, correct], shown, api_name="correct")
        return group

    def ask(self, picture: str | None, question: str) -> Iterator[tuple[Any, ...]]:
        """Answer a question.

        Args:
            picture: Uploaded file; None without one.
            question: As typed.

        Yields:
            What was asked once it is answered, the answers so far, and whether to show the verdict.
        """
        answers: tuple[str, ...] = ("",) * len(self.columns)
        yield None, *answers, HIDDEN
        with _as_gradio_errors():
            shown = read_picture(Path(picture), Path(picture).name) if picture else None
            conversation = conversation_about(question, shown, self.system)
            for answers in stream_answers(self.columns, conversation, self.max_new_tokens):
                yield None, *answers, HIDDEN
        yield Asked(conversation, answers), *answers, SHOWN

    def judge_right(self, asked: Asked | None) -> tuple[Any, ...]:
        """Keep that the last answer was right."""
        return self._judge(asked, "right")

    def judge_wrong(self, asked: Asked | None) -> tuple[Any, ...]:
        """Keep that the last answer was wrong."""
        return self._judge(asked, "wrong")

    def judge_corrected(self, asked: Asked | None, correct: str) -> tuple[Any, ...]:
        """Keep the right answer to the question."""
        return self._judge(asked, "corrected", correct.strip())

    def _judge(self, asked: Asked | None, verdict: Verdict, correct: str = "") -> tuple[Any, ...]:
        """Keep a verdict; returns the hidden buttons, an empty correction and the new status."""
        with _as_gradio_errors():
            if asked is None:
                raise UserError("no question was answered. Ask one first.")
            self.verdicts.save(asked, verdict, correct)
            return HIDDEN, "", self.status()

    def status(self) -> str:
        """How many questions were judged, and where they are; Markdown."""
        counts = self.verdicts.counts()
        if not counts:
            return "Verdicts are saved as rows to train on and to score."
        parts = [
            f"{counts['right']} right, {counts['corrected']} corrected, {counts['wrong']} wrong."
        ]
        if counts["right"] + counts["corrected"]:
            parts.append(f"Rows to train on and to score: {_code(self.verdicts.path / ROWS)}")
        if counts["wrong"]:
            parts.append(f"Without a right answer: {_code(self.verdicts.path / OPEN)}")
        return "\n\n".join(parts)


def launch(page: Page, port: int | None) -> tuple[gr.Blocks, str]:
    """Serve a page on this machine alone.

    Args:
        page: The page.
        port: Of the server; None takes the first free one from 7860 on.

    Returns:
        The running page, to be closed, and its address.

    Raises:
        UserError: The port is taken.
    """
    blocks = page.build()
    theme = gr.themes.Default(primary_hue="blue", neutral_hue="slate", font=FONT, font_mono=MONO)
    try:
        _, address, _ = blocks.launch(
            server_name=HOST,
            server_port=port,
            share=False,
            quiet=True,
            show_error=True,
            prevent_thread_lock=True,
            max_file_size=FILE_BYTES,
            footer_links=[],
            run_history=False,
            ssr_mode=False,
            mcp_server=False,
            theme=theme,
            css_paths=STYLE,
        )
    except OSError as error:
        raise UserError(f"--port {port}: {error}. Choose another port, or leave it out.") from error
    return blocks, address


def _answer_box(column: Column) -> gr.Textbox:
    """Where a model's answer appears. A text box shows it as it is, tags and all."""
    return gr.Textbox(
        label=column.title,
        lines=5,
        max_lines=20,
        interactive=False,
        buttons=["copy"],
        min_width=240,
    )


def _code(path: Path) -> str:
    """A path in Markdown."""
    return f"`{str(path).replace('`', '')}`"


@contextmanager
def _as_gradio_errors() -> Iterator[None]:
    """Show the user's mistakes on the page; its messages are HTML."""
    try:
        yield
    except UserError as error:
        raise gr.Error(html.escape(str(error)), print_exception=False) from error
