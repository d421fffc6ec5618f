//go:build race

package sim

// raceDetector: under it the runtime mixes the order of goroutines on purpose, so that a run does not
// repeat another event by event.
const raceDetector = true
