"""Rows to batches. This package never sees weights.

::

    row  ->  Conversation  ->  Sample  ->  Batch

1. Open what a recipe names (`readers`)
    function: open_rows, open_stream
    input:    a file, pattern, folder, hub name or URL
    output:   Reader: Records by number, or one after another from a stream

2. Read a row as a conversation (`formats`)
    class:    Conversations
    does:     parses the record, finds its format, resolves its images without loading them
    output:   Conversation: turns of text and image references

3. Group conversations into rows (`rows`, `sampling.holdout`)
    class:    Rows: what a data module serves of a split
    does:     holds some out, joins those about the same images into a message tree
    output:   a list of Conversations per row

4. Check every row before training (`validation`)
    function: inspect_rows
    input:    Rows
    output:   RowStats per conversation: errors, lengths, images; cached on disk

5. Choose the rows of each micro-batch (`sampling`)
    class:    BatchSampler: EpochSampler, StreamSampler or MixtureSampler
    input:    seed, position, rank and number of processes, and nothing else
    output:   keys of rows

6. Encode the rows of a micro-batch, in a worker process (`encoding`, `images`)
    function: make_batch; make_prompts for questions that are answered
    does:     Conversation -> Sample (token ids, labels, loss weights, images) -> message trees
              -> packed rows -> Batch (padded tensors, every distinct image once)
    output:   Batch or Prompts

`dsvl_tune.datamodules` connects the steps. Rows of two files, in a few lines::

    from dsvl_tune.data.formats.conversations import ConversationRows, open_conversations
    from dsvl_tune.data.sampling.epoch_sampler import EpochSampler

    rows = ConversationRows(open_conversations("my/*.jsonl"))
    for micro_batch in EpochSampler(len(rows), batch_size=8, seed=1):
        conversations = [rows[number] for number in micro_batch]

What a step sees depends on the number of processes in one case only. Files and generated rows are
dealt out of one order, so it is the same for every number of processes as long as
batch_size x processes is. A stream with at least as many shards as processes is read in lanes, one
per process, so that each process reads its own shards: its order depends on the number of
processes that the run was started with. The run checkpoint holds that number, so a run that is
resumed by another number of processes keeps its order.
"""
