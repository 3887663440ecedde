"""Rows of files, folders, tables and streams.

`open_rows` opens what a recipe names: files are indexed or memory-mapped and give any row by
number. `open_stream` reads shards one after another, local or remote. Both return a `Reader`,
whose rows are `Record`s: found, not parsed yet.

- `base`: the protocol, `Record`
- `open`: names to readers
- `file_formats`: one table, from a file's ending to what opens and streams it
- `row_scan`, `lines`, `json_array`, `webdataset`, `tables`: one module per kind of format, each of
  which finds the rows of an opened file and of a streamed shard with the same code
- `parse`: a row's bytes to its value
- `indexed_file`: opened files whose rows are ranges of bytes
- `stream`: shards, and their endless shuffled order
"""
