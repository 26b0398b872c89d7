"""The MVC pipeline: candidate pairs, the filter, rewording, an MVC file."""
