// Package unit writes measured numbers for people: few digits, and units that fit.
//
// It owns formats alone. A unit's name is the tail of a figure's name: "µs", "B", "µs/op", "/s".
package unit
