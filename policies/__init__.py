"""Pure decisions: snapshot + policy + measured profile in, decision with its reasons out."""
