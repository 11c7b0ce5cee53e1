"""One file format a module: each says whether it `recognises` a source, and can `load` it."""
