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
    # HuggingFaceM4/the_cauldron, HuggingFaceM4/Docmatix, HuggingFaceM4/FineVision
    "the_cauldron": (
        "texts",
        {
            "images": [{"bytes": PNG.getvalue(), "path": None}, {"path": "x.jpg"}],
            "texts": [
                {"user": "Which?", "assistant": "The first.", "source": "Docmatix"},
                {"user": "Why?", "assistant": "It is red.", "source": "Docmatix"},
            ],
            "relevance_ratings": [5, 5],
        },
        [
            ("u", ["#sha", "#x.jpg", "Which?"], 1.0),
            ("a", ["The first."], 1.0),
            ("u", ["Why?"], 1.0),
            ("a", ["It is red."], 1.0),
        ],
    ),
    # TRL, docs/dataset_formats: vision rows list images and have no placeholder in the text
    "trl messages": (
        "openai",
        {
            "images": [{"bytes": PNG.getvalue(), "path": None}],
            "messages": [
                {"role": "user", "content": "What color?"},
                {"role": "assistant", "content": "Blue."},
            ],
        },
        [("u", ["#sha", "What color?"], 1.0), ("a", ["Blue."], 1.0)],
    ),
    "trl prompt and completion": (
        "prompt_completion",
        {
            "images": ["x.jpg"],
            "prompt": [{"role": "user", "content": "What color?"}],
            "completion": [{"role": "assistant", "content": "Blue."}],
        },
        [("u", ["#x.jpg", "What color?"], 1.0), ("a", ["Blue."], 1.0)],
    ),
    "trl prompt and completion as text": (
        "prompt_completion",
        {"prompt": "Is it blue?", "completion": "Yes.", "image": "x.jpg"},
        [("u", ["#x.jpg", "Is it blue?"], 1.0), ("a", ["Yes."], 1.0)],
    ),
    # Anthropic, vision guide
    "anthropic": (
        "openai",
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "image",
                            "source": {
                                "type": "base64",
                                "media_type": "image/png",
                                "data": DATA_URL.partition(",")[2],
                            },
                        },
                        {"type": "text", "text": "Describe."},
                    ],
                },
                {"role": "assistant", "content": "A red square."},
            ]
        },
        [("u", ["#sha", "Describe."], 1.0), ("a", ["A red square."], 1.0)],
    ),
    # OpenAI, responses
    "openai responses": (
        "openai",
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "input_image", "image_url": DATA_URL},
                        {"type": "input_text", "text": "Describe."},
                    ],
                },
                {"role": "assistant", "content": [{"type": "output_text", "text": "A square."}]},
            ]
        },
        [("u", ["#sha", "Describe."], 1.0), ("a", ["A square."], 1.0)],
    ),
    # ms-swift, docs/Customization/Custom-dataset: ShareGPT
    "swift sharegpt": (
        "deepseek",
        {
            "system": "S",
            "conversation": [
                {"human": "<image>Who?", "assistant": "They."},
                {"human": "Where?", "assistant": "There."},
            ],
            "images": ["1.jpg"],
        },
        [
            ("u", ["#1.jpg", "Who?"], 1.0),
            ("a", ["They."], 1.0),
            ("u", ["Where?"], 1.0),
            ("a", ["There."], 1.0),
        ],
    ),
    # ShareGPT with the roles human and assistant
    "sharegpt assistant": (
        "llava",
        {
            "conversations": [
                {"from": "human", "value": "<image>Who?"},
                {"from": "assistant", "value": "They."},
            ],
            "image": "1.jpg",
        },
        [("u", ["#1.jpg", "Who?"], 1.0), ("a", ["They."], 1.0)],
    ),
    # lmms-lab/VQAv2: of equally frequent answers the published one
    "vqav2": (
        "answers",
        {
            "question_type": "is",
            "multiple_choice_answer": "no",
            "answers": [
                {"answer": "yes", "answer_confidence": "maybe", "answer_id": 1},
                {"answer": "no", "answer_confidence": "yes", "answer_id": 2},
            ],
            "image_id": 262148,
            "answer_type": "yes/no",
            "question_id": 262148000,
            "question": "Is it?",
            "image": {"bytes": PNG.getvalue(), "path": "COCO_val2014_000000262148.jpg"},
        },
        [("u", ["#sha", "Is it?"], 1.0), ("a", ["no"], 1.0)],
    ),
    # HuggingFaceM4/A-OKVQA
    "a-okvqa": (
        "scienceqa",
        {
            "image": PNG.getvalue(),
            "question_id": "22MexNkBPpdZGX6sxbxVBH",
            "question": "What is it?",
            "choices": ["ram", "bull"],
            "correct_choice_idx": 1,
            "direct_answers": "['bull', 'cow']",
            "difficult_direct_answer": False,
            "rationales": ["It has horns."],
        },
        [
            (
                "u",
                ["#sha", "What is it?\nA. ram\nB. bull\nAnswer with the letter of the choice."],
                1.0,
            ),
            ("a", ["B"], 1.0),
        ],
    ),
    # MMBench's tables: base64 without a header, missing options empty
    "mmbench": (
        "scienceqa",
        {
            "index": "241",
            "question": "Which?",
            "hint": "Look.",
            "A": "one",
            "B": "two",
            "C": "three",
            "D": "",
            "answer": "C",
            "category": "x",
            "image": DATA_URL.partition(",")[2],
            "source": "scienceqa",
            "l2-category": "y",
            "comment": "",
        },
        [
            (
                "u",
                [
                    "#sha",
                    "Look.\nWhich?\nA. one\nB. two\nC. three\n"
                    "Answer with the letter of the choice.",
                ],
                1.0,
            ),
            ("a", ["C"], 1.0),
        ],
    ),
    # AILab-CVC/SEED-Bench
    "seed-bench": (
        "scienceqa",
        {
            "question": "Which?",
            "choice_a": "one",
            "choice_b": "two",
            "answer": "B",
            "image": [PNG.getvalue()],
            "data_type": "image",
        },
        [
            ("u", ["#sha", "Which?\nA. one\nB. two\nAnswer with the letter of the choice."], 1.0),
            ("a", ["B"], 1.0),
        ],
    ),
    # MMMU/MMMU
    "mmmu": (
        "scienceqa",
        {
            "id": "validation_Art_1",
            "question": "Which is like <image 1>?",
            "options": "['<image 2>', 'none']",
            "explanation": "",
            "image_1": {"bytes": PNG.getvalue(), "path": "a_1.png"},
            "image_2": {"bytes": None, "path": "2.png"},
            "image_3": None,
            "img_type": "['Paintings']",
            "answer": "A",
            "topic_difficulty": "Medium",
            "question_type": "multiple-choice",
            "subfield": "Art",
        },
        [
            (
                "u",
                [
                    "Which is like ",
                    "#sha",
                    "?\nA. ",
                    "#2.png",
                    "\nB. none\nAnswer with the letter of the choice.",
                ],
                1.0,
            ),
            ("a", ["A"], 1.0),
        ],
    ),
    "mmmu open": (
        "scienceqa",
        {
            "question": "<image 1> How many?",
            "options": "[]",
            "image_1": {"bytes": PNG.getvalue(), "path": None},
            "answer": "['7', 'seven']",
            "question_type": "open",
        },
        [("u", ["#sha", " How many?"], 1.0), ("a", ["7"], 1.0)],
    ),
    # Label Studio, JSON-MIN of its template for captions: the image's key is the project's
    "label studio": (
        "caption",
        {
            "captioning": "x.jpg",
            "id": 7,
            "caption": [{"text": ["A dog."]}],
            "annotator": 1,
            "annotation_id": 3,
            "created_at": "2026-01-01T00:00:00Z",
            "updated_at": "2026-01-01T00:00:00Z",
            "lead_time": 3.2,
        },
        [("u", ["#x.jpg"], 1.0), ("a", ["A dog."], 1.0)],
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
