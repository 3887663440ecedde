"""From an image reference to what a `Sample` holds of it.

`load` decodes and checks images, `download` fetches them, `loader` brings an image from the
caches or from its file (`ImageLoader`), `padded_cache` keeps padded images, and `missing_features`
finds the images of rows that a feature cache does not have yet.
"""
