"""The live screen of `patchctl top`: texts and numbers apart from the widgets that show them."""
