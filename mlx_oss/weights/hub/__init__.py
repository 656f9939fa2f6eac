"""Models of the Hugging Face Hub: their names, the copies that are on this disk, and how one is downloaded.

`names` reads a name, `copies` finds what is here, `repository` asks the Hub what a model consists of, `download` brings
that into Hugging Face's own cache, so that other programs find it too. Knows nothing of layouts, plans or arrays.
"""
