package host

import "fmt"

// What an operator can do about a file of the data directory that is missing or damaged.
const (
	promisesLost = "the node does not know what it has promised to the others, and must not take part: mend the files, " +
		"or leave it out and let the other members serve; of a cluster of one, restore a backup of the whole data directory"
	dataLost = "nobody else has this data: restore a backup of the whole data directory"
	hintLost = "it is only a hint: remove the file, and start the node again"
)

// advise says what is wrong with which file or directory, and what to do about it.
func advise(err error, what, advice string) error {
	return fmt.Errorf("%w; %s cannot be used; what to do: %s", err, what, advice)
}
