// Package report draws results: one HTML page without scripts that needs no network, and a short
// text in Markdown.
//
// It owns charts, tables and their words. It decides nothing about figures: which runs are good and
// what their ratios are stands in the results. Figures of a run that is not good are not shown; why
// it is not good is.
package report
