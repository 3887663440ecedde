"""Rows of each format in the shape that its own documentation shows, and what they mean."""

from __future__ import annotations

import base64
import io
from typing import Any

from PIL import Image

from dsvl_tune.data.formats.registry import Format

PNG = io.BytesIO()
Image.new("RGB", (3, 3), "red").save(PNG, "PNG")
DATA_URL = "data:image/png;base64," + base64.b64encode(PNG.getvalue()).decode()

# Name -> (format, row, turns as `shape` in test_published_shapes gives them).
SHAPES: dict[str, tuple[Format, Any, list[Any]]] = {
    # OpenAI, vision fine-tuning guide: a part list with an image URL next to plain strings
    "openai": (
        "openai",
        {
            "messages": [
                {"role": "system", "content": "You identify birds."},
                {"role": "user", "content": "What bird is this?"},
                {
                    "role": "user_image",
                    "content": [{"type": "image_url", "image_url": {"url": DATA_URL}}],
                },
                {"role": "assistant", "content": "A kite", "weight": 0},
            ]
        },
        [],
    ),
    # LLaVA, docs/Finetune_Custom_Data.md
    "llava": (
        "llava",
        {
            "id": "99-07",
            "image": "part-0/9.jpg",
            "conversations": [
                {"from": "human", "value": "<image>\nWrite a prompt."},
                {"from": "gpt", "value": "A room"},
            ],
        },
        [("u", ["#9.jpg", "\nWrite a prompt."], 1.0), ("a", ["A room"], 1.0)],
    ),
    # ShareGPT as LLaMA-Factory's data/README.md has it for images
    "sharegpt": (
        "llava",
        {
            "conversations": [
                {"from": "human", "value": "<image>Who?"},
                {"from": "gpt", "value": "They."},
            ],
            "images": ["1.jpg"],
            "system": "Be brief.",
        },
        [("u", ["#1.jpg", "Who?"], 1.0), ("a", ["They."], 1.0)],
    ),
    # ms-swift, docs/Customization/Custom-dataset: standard format with an unsupervised reply
    "swift messages": (
        "openai",
        {
            "messages": [
                {"role": "system", "content": "S"},
                {"role": "user", "content": "<image><image>Differ?"},
                {"role": "assistant", "content": "First.", "loss": False},
                {"role": "user", "content": "So?"},
                {"role": "assistant", "content": "Yes.", "loss": True},
            ],
            "images": ["/data/x.jpg", "/data/y.png"],
        },
        [
            ("u", ["#x.jpg", "#y.png", "Differ?"], 1.0),
            ("a", ["First."], 0.0),
            ("u", ["So?"], 1.0),
            ("a", ["Yes."], 1.0),
        ],
    ),
    # ms-swift: query and response with a history
    "swift query": (
        "swift",
        {
            "system": "S",
            "query": "And?",
            "response": "No.",
            "history": [["<image>Is it?", "Yes."]],
            "images": ["x.jpg"],
        },
        [
            ("u", ["#x.jpg", "Is it?"], 1.0),
            ("a", ["Yes."], 1.0),
            ("u", ["And?"], 1.0),
            ("a", ["No."], 1.0),
        ],
    ),
    "swift query without tags": (
        "swift",
        {
            "query": "Same?",
            "response": "No.",
            "images": [{"bytes": PNG.getvalue(), "path": None}, {"path": "x.jpg"}],
        },
        [("u", ["#sha", "#x.jpg", "Same?"], 1.0), ("a", ["No."], 1.0)],
    ),
    # DeepSeek-VL, README: several images, each with its caption
    "deepseek": (
        "deepseek",
        [
            {
                "role": "User",
                "content": "<image_placeholder>A dog wearing nothing, "
                "<image_placeholder>a dog with a hat. Next?",
                "images": ["images/dog_a.png", "images/dog_b.png"],
            },
            {"role": "Assistant", "content": "A crown."},
        ],
        [
            (
                "u",
                ["#dog_a.png", "A dog wearing nothing, ", "#dog_b.png", "a dog with a hat. Next?"],
                1.0,
            ),
            ("a", ["A crown."], 1.0),
        ],
    ),
    "question and answer": (
        "question_answer",
        {"question": "How many?", "answer": "2", "image": Image.open(io.BytesIO(PNG.getvalue()))},
        [("u", ["#sha", "How many?"], 1.0), ("a", ["2"], 1.0)],
    ),
    "caption": (
        "caption",
        {"caption": "A dog", "image": PNG.getvalue()},
        [("u", ["#sha"], 1.0), ("a", ["A dog"], 1.0)],
    ),
    # HuggingFaceM4/ChartQA
    "chartqa": (
        "chartqa",
        {
            "image": {"bytes": PNG.getvalue(), "path": None},
            "query": "How many?",
            "label": ["14"],
            "human_or_machine": 0,
        },
        [("u", ["#sha", "How many?"], 1.0), ("a", ["14"], 1.0)],
    ),
    # ChartQA's own files
    "chartqa files": (
        "chartqa",
        {"imgname": "41.png", "query": "How many?", "label": "14"},
        [("u", ["#41.png", "How many?"], 1.0), ("a", ["14"], 1.0)],
    ),
    "docvqa": (
        "answers",
        {
            "questionId": "337",
            "question": "What is the date?",
            "question_types": ["handwritten", "form"],
            "image": {"bytes": PNG.getvalue(), "path": "x.png"},
            "docId": 279,
            "answers": ["1/8/93"],
        },
        [("u", ["#sha", "What is the date?"], 1.0), ("a", ["1/8/93"], 1.0)],
    ),
    "textvqa": (
        "answers",
        {
            "image_id": "003",
            "question_id": 34602,
            "question": "what brand?",
            "image": PNG.getvalue(),
            "answers": [
                "nokia",
                "nous",
                "nous",
                "dakota",
                "nous",
                "toshiba",
                "nous",
                "nous",
                "nokia",
                "dakota",
            ],
            "ocr_tokens": ["nous"],
        },
        [("u", ["#sha", "what brand?"], 1.0), ("a", ["nous"], 1.0)],
    ),
    # derek-thomas/ScienceQA
    "scienceqa": (
        "scienceqa",
        {
            "image": None,
            "question": "Which is a liquid?",
            "choices": ["a rock", "tea"],
            "answer": 1,
            "hint": "Think.",
            "subject": "natural science",
            "lecture": "",
            "solution": "",
        },
        [
            (
                "u",
                [
                    "Think.\nWhich is a liquid?\nA. a rock\nB. tea\n"
                    "Answer with the letter of the choice."
                ],
                1.0,
            ),
            ("a", ["B"], 1.0),
        ],
    ),
    # nlphuji/flickr30k and COCO: several captions a picture
    "captions": (
        "caption",
        {"image": PNG.getvalue(), "caption": ["Two dogs.", "Dogs, two."], "sentids": ["0", "1"]},
        [("u", ["#sha"], 1.0), ("a", ["Two dogs."], 1.0)],
    ),
    # all keys, null where they mean nothing: what a table makes of part lists
    "openai from a table": (
        "openai",
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image", "text": None, "image": None},
                        {"type": "text", "text": "What?", "image": None},
                    ],
                    "weight": None,
                },
                {
                    "role": "assistant",
                    "content": [{"type": "text", "text": "That.", "image": None}],
                    "weight": None,
                },
            ],
            "images": [{"bytes": None, "path": "1.jpg"}],
        },
        [("u", ["#1.jpg", "What?"], 1.0), ("a", ["That."], 1.0)],
    ),
}
SHAPES["openai"][1]["messages"][2]["role"] = (
    "user"  # as published: the picture is a second message of the user
)
SHAPES["openai"][2][:] = [
    ("u", ["What bird is this?"], 1.0),
    ("u", ["#sha"], 1.0),
    ("a", ["A kite"], 0.0),
]
SHAPES["deepseek under a key"] = (
    "deepseek",
    {"messages": SHAPES["deepseek"][1]},
    SHAPES["deepseek"][2],
)
