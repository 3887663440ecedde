"""Row formats: what a row of a file means.

- `registry`: the formats by name (`FORMATS`) and `read_row`, which turns a row into a Conversation
- `vqa`: formats of published data sets
- `messages`: what the formats share
- `image_refs`: what a row may give as an image (`ImageSource`, `image_ref`)
- `conversations`: the conversations of a file or stream
"""
