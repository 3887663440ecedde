"""Generated data with exact answers, and the small embedded model that was trained on it.

Every row is a pure function of its seed. `charts` is the domain that the small recipes tune on;
`scenes` and `text_tables` are what the embedded model was trained on. All three ask about elements
named by color that have a value, in different pictures and different words.
"""
