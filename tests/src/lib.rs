//! End-to-end tests of the whole: see the folders beside this one. There is nothing to import here.
