"""Seeded generators of pictures and tables with exact questions: every row is a pure function of its seed.

`charts` is the domain that the small recipes tune on; `scenes` and `text_tables` are what the embedded model was
trained on. All three ask about the same kind of thing, elements named by colour that have a value, in different
pictures and different words.
"""
