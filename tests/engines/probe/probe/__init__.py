"""An app whose training is arithmetic."""
