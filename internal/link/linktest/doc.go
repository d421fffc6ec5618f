// Package linktest is the end of a link that wants feeds, without a wire, for tests of what has feeds. It belongs into bubbles of synctest.
//
// It owns: what such an end asks for, and what it was told. What it does with it is link.Sink's, as in a process.
package linktest
