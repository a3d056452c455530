"""The figures of the paper that popexd began with, drawn anew from popexd's own model, solvers and measurements.

R. G. Pacheco, R. S. Couto: POPEX, SBRC-Estendido 2021, https://doi.org/10.5753/sbrc_estendido.2021.17168. Figures 3 and
4 follow from a layer profile; 5, 6 and 7 from photos and a model bundle. What each of them must show is in the facts
that come with it.
"""
