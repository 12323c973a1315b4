"""The pure modelling core: frames in, values out. Only `pipelines` reads, writes or records."""
