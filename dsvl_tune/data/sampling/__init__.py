"""Which rows a step sees: a pure function of seed, position and process.

- `batch_sampler`: the protocol that all samplers follow, and what a checkpoint stores of one
- `epoch_sampler`: rows of one source, epoch by epoch
- `stream_sampler`: rows of one stream, and how streams are dealt to processes
- `mixture_sampler`: rows of several sources, mixed; `mixture_schedule` counts them
- `row_orders`: endless orders of one source's rows
- `holdout`: which conversations are held out, and which share a message tree
"""
