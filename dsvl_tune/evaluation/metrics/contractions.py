"""Contractions that VQA's normalization completes.

Source: GT-Vision-Lab/VQA, `PythonEvaluationTools/vqaEvaluation/vqaEval.py`, which mmf repeats. Its
entries with a capital I can never match, because texts are in lower case by then.
"""

from __future__ import annotations

_COMPLETE = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
    haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've
    might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've
    shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll
    someone's something'd something'd've something'll that's there'd there'd've there're there's
    they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're
    what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're
    why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're
    you've
"""


def _lacking_an_apostrophe(word: str) -> list[str]:
    """A word without each of its apostrophes in turn."""
    places = [place for place, character in enumerate(word) if character == "'"]
    return [word[:place] + word[place + 1 :] for place in places]


CONTRACTIONS = {
    incomplete: word for word in _COMPLETE.split() for incomplete in _lacking_an_apostrophe(word)
} | {"somebody'd": "somebodyd"}
"""Word that lacks an apostrophe -> the complete one, and the source's one mistake."""
