# ruff: noqa: E501
# fmt: off
"""What nano knows, as plain tables with one fact in each line or cell.

Knows nothing of phrasings, messages or tokens.
"""

from __future__ import annotations


def _rows(text: str) -> list[tuple[str, ...]]:
    return [tuple(cell.strip() for cell in line.split("|")) for line in text.strip().splitlines()]


def _pairs(text: str) -> list[tuple[str, str]]:
    """Parses `a=b; c=d` to pairs."""
    cells = [cell.partition("=") for cell in text.replace("\n", " ").split(";")]
    return [(left.strip(), right.strip()) for left, _, right in cells if left.strip()]


def _questions(text: str) -> list[tuple[str, str]]:
    """Parses lines `template;;template|answer` to (templates, answer). Templates may contain `|`; the last one separates."""
    return [(line.rpartition("|")[0], line.rpartition("|")[2]) for line in text.strip().splitlines()]


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.replace("\n", " ").split(",") if word.strip()]


# country | capital | continent | currency | main language   (empty cell: nano has no such fact)
COUNTRIES = _rows("""
France|Paris|Europe|euro|French
Germany|Berlin|Europe|euro|German
Italy|Rome|Europe|euro|Italian
Spain|Madrid|Europe|euro|Spanish
Portugal|Lisbon|Europe|euro|Portuguese
Austria|Vienna|Europe|euro|German
Belgium|Brussels|Europe|euro|
Netherlands|Amsterdam|Europe|euro|Dutch
Ireland|Dublin|Europe|euro|English
Greece|Athens|Europe|euro|Greek
Finland|Helsinki|Europe|euro|Finnish
Sweden|Stockholm|Europe|Swedish krona|Swedish
Norway|Oslo|Europe|Norwegian krone|Norwegian
Denmark|Copenhagen|Europe|Danish krone|Danish
Iceland|Reykjavik|Europe|Icelandic krona|Icelandic
Poland|Warsaw|Europe|zloty|Polish
Hungary|Budapest|Europe|forint|Hungarian
Romania|Bucharest|Europe|leu|Romanian
Bulgaria|Sofia|Europe||Bulgarian
Croatia|Zagreb|Europe|euro|Croatian
Serbia|Belgrade|Europe|Serbian dinar|Serbian
Slovenia|Ljubljana|Europe|euro|Slovenian
Slovakia|Bratislava|Europe|euro|Slovak
Estonia|Tallinn|Europe|euro|Estonian
Latvia|Riga|Europe|euro|Latvian
Lithuania|Vilnius|Europe|euro|Lithuanian
Ukraine|Kyiv|Europe|hryvnia|Ukrainian
Russia|Moscow||ruble|Russian
Switzerland|Bern|Europe|Swiss franc|
Albania|Tirana|Europe|lek|Albanian
Malta|Valletta|Europe|euro|Maltese
Luxembourg|Luxembourg City|Europe|euro|
United Kingdom|London|Europe|pound sterling|English
England|London|Europe|pound sterling|English
Scotland|Edinburgh|Europe|pound sterling|English
Wales|Cardiff|Europe|pound sterling|
Turkey|Ankara||Turkish lira|Turkish
Cyprus|Nicosia||euro|Greek
Israel|Jerusalem|Asia|shekel|Hebrew
Egypt|Cairo|Africa|Egyptian pound|Arabic
Morocco|Rabat|Africa|Moroccan dirham|Arabic
Algeria|Algiers|Africa|Algerian dinar|Arabic
Tunisia|Tunis|Africa|Tunisian dinar|Arabic
Libya|Tripoli|Africa|Libyan dinar|Arabic
Kenya|Nairobi|Africa|Kenyan shilling|Swahili
Ethiopia|Addis Ababa|Africa|birr|Amharic
Nigeria|Abuja|Africa|naira|English
Ghana|Accra|Africa|cedi|English
Senegal|Dakar|Africa|CFA franc|French
Uganda|Kampala|Africa|Ugandan shilling|
Rwanda|Kigali|Africa|Rwandan franc|
Angola|Luanda|Africa|kwanza|Portuguese
Zambia|Lusaka|Africa|kwacha|English
Zimbabwe|Harare|Africa||
Mali|Bamako|Africa|CFA franc|
Sudan|Khartoum|Africa|Sudanese pound|Arabic
Somalia|Mogadishu|Africa|Somali shilling|Somali
Madagascar|Antananarivo|Africa|ariary|Malagasy
China|Beijing|Asia|yuan|Chinese
Japan|Tokyo|Asia|yen|Japanese
South Korea|Seoul|Asia|won|Korean
North Korea|Pyongyang|Asia|won|Korean
India|New Delhi|Asia|rupee|Hindi
Pakistan|Islamabad|Asia|rupee|Urdu
Bangladesh|Dhaka|Asia|taka|Bengali
Nepal|Kathmandu|Asia|Nepalese rupee|Nepali
Thailand|Bangkok|Asia|baht|Thai
Vietnam|Hanoi|Asia|dong|Vietnamese
Cambodia|Phnom Penh|Asia|riel|Khmer
Laos|Vientiane|Asia|kip|Lao
Malaysia|Kuala Lumpur|Asia|ringgit|Malay
Singapore|Singapore|Asia|Singapore dollar|
Indonesia|Jakarta|Asia|rupiah|Indonesian
Philippines|Manila|Asia|peso|Filipino
Mongolia|Ulaanbaatar|Asia|tugrik|Mongolian
Iran|Tehran|Asia|rial|Persian
Iraq|Baghdad|Asia|Iraqi dinar|Arabic
Syria|Damascus|Asia|Syrian pound|Arabic
Lebanon|Beirut|Asia|Lebanese pound|Arabic
Jordan|Amman|Asia|Jordanian dinar|Arabic
Saudi Arabia|Riyadh|Asia|riyal|Arabic
Qatar|Doha|Asia|riyal|Arabic
Kuwait|Kuwait City|Asia|Kuwaiti dinar|Arabic
Afghanistan|Kabul|Asia|afghani|
Georgia|Tbilisi||lari|Georgian
Armenia|Yerevan|Asia|dram|Armenian
Kazakhstan|Astana|Asia|tenge|Kazakh
Canada|Ottawa|North America|Canadian dollar|English
United States|Washington, D.C.|North America|US dollar|English
Mexico|Mexico City|North America|peso|Spanish
Cuba|Havana|North America|peso|Spanish
Jamaica|Kingston|North America|Jamaican dollar|English
Guatemala|Guatemala City|North America|quetzal|Spanish
Honduras|Tegucigalpa|North America|lempira|Spanish
Nicaragua|Managua|North America|cordoba|Spanish
Costa Rica|San Jose|North America|colon|Spanish
Panama|Panama City|North America|balboa|Spanish
Haiti|Port-au-Prince|North America|gourde|
Brazil|Brasilia|South America|real|Portuguese
Argentina|Buenos Aires|South America|peso|Spanish
Chile|Santiago|South America|peso|Spanish
Peru|Lima|South America|sol|Spanish
Colombia|Bogota|South America|peso|Spanish
Venezuela|Caracas|South America|bolivar|Spanish
Ecuador|Quito|South America|US dollar|Spanish
Uruguay|Montevideo|South America|peso|Spanish
Paraguay|Asuncion|South America|guarani|Spanish
Australia|Canberra|Oceania|Australian dollar|English
New Zealand|Wellington|Oceania|New Zealand dollar|English
Fiji|Suva|Oceania|Fijian dollar|
""")
WITH_ARTICLE = {"Netherlands", "United Kingdom", "United States", "Philippines"}
SHORT_NAMES = _pairs("USA=United States; US=United States; America=United States; UK=United Kingdom; Holland=Netherlands;"
                     "Great Britain=United Kingdom; Britain=United Kingdom")

ELEMENTS = _pairs("""hydrogen=H; helium=He; lithium=Li; carbon=C; nitrogen=N; oxygen=O; fluorine=F; neon=Ne; sodium=Na;
magnesium=Mg; aluminium=Al; silicon=Si; phosphorus=P; sulfur=S; chlorine=Cl; argon=Ar; potassium=K; calcium=Ca; titanium=Ti;
chromium=Cr; manganese=Mn; iron=Fe; cobalt=Co; nickel=Ni; copper=Cu; zinc=Zn; arsenic=As; bromine=Br; silver=Ag; tin=Sn;
iodine=I; tungsten=W; platinum=Pt; gold=Au; mercury=Hg; lead=Pb; uranium=U; plutonium=Pu; boron=B; barium=Ba""")

OPPOSITES = _pairs("""hot=cold; big=small; tall=short; fast=slow; happy=sad; light=dark; up=down; left=right; day=night;
good=bad; old=young; new=old; rich=poor; open=closed; full=empty; hard=soft; high=low; in=out; early=late; easy=difficult;
wet=dry; clean=dirty; strong=weak; heavy=light; thick=thin; wide=narrow; deep=shallow; loud=quiet; near=far; first=last;
love=hate; win=lose; buy=sell; give=take; push=pull; start=stop; begin=end; true=false; yes=no; black=white; inside=outside;
above=below; before=after; always=never; sweet=sour; smooth=rough; sharp=blunt; brave=afraid; cheap=expensive; safe=dangerous;
north=south; east=west; summer=winter; friend=enemy; question=answer; life=death; war=peace; success=failure;
future=past; arrive=leave; remember=forget; accept=refuse; laugh=cry; awake=asleep; alive=dead; same=different; long=short;
front=back; top=bottom; everything=nothing; warm=cool; modern=ancient; public=private; increase=decrease; positive=negative""")

SOUNDS = _pairs("""dog=woof; cat=meow; cow=moo; sheep=baa; pig=oink; duck=quack; horse=neigh; lion=roar; frog=ribbit; bee=buzz;
owl=hoot; snake=hiss; wolf=howl; rooster=cock-a-doodle-doo; mouse=squeak; bird=tweet; donkey=hee-haw; crow=caw; goat=bleat""")
BABIES = _pairs("""dog=puppy; cat=kitten; cow=calf; sheep=lamb; horse=foal; pig=piglet; duck=duckling; goose=gosling; lion=cub; bear=cub;
frog=tadpole; deer=fawn; goat=kid; swan=cygnet; kangaroo=joey; hen=chick; fox=cub; owl=owlet; elephant=calf; whale=calf""")
LEGS = _pairs("""dog=4; cat=4; spider=8; ant=6; bee=6; bird=2; horse=4; cow=4; human=2; snake=0; fish=0; fly=6; octopus=0; crab=10;
elephant=4; butterfly=6; chicken=2; scorpion=8; frog=4; lion=4; penguin=2; worm=0; sheep=4; duck=2; beetle=6""")
KINDS = _pairs("""dog=mammal; cat=mammal; whale=mammal; dolphin=mammal; bat=mammal; elephant=mammal; horse=mammal; shark=fish; salmon=fish;
tuna=fish; eagle=bird; penguin=bird; owl=bird; parrot=bird; snake=reptile; lizard=reptile; crocodile=reptile; turtle=reptile; frog=amphibian;
toad=amphibian; ant=insect; bee=insect; butterfly=insect; beetle=insect; mosquito=insect; lion=mammal; tiger=mammal; bear=mammal; wolf=mammal""")

COLOURS = _pairs("""sky=blue; grass=green; snow=white; blood=red; coal=black; banana=yellow; lemon=yellow; carrot=orange; tomato=red;
strawberry=red; milk=white; chocolate=brown; night sky=black; sun=yellow; sea=blue; leaf=green; cherry=red; pumpkin=orange; frog=green;
cucumber=green; sugar=white; salt=white; flamingo=pink; emerald=green; ruby=red; sapphire=blue; elephant=grey; polar bear=white""")
MIXES = _rows("""
blue|yellow|green
red|yellow|orange
red|blue|purple
red|white|pink
black|white|grey
red|green|brown
""")

DAYS = _words("Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday")
MONTHS = _words("January, February, March, April, May, June, July, August, September, October, November, December")
MONTH_DAYS = ("31", "28 or 29", "31", "30", "31", "30", "31", "31", "30", "31", "30", "31")
PLANETS = _words("Mercury, Venus, Earth, Mars, Jupiter, Saturn, Uranus, Neptune")
ORDINALS = _words("first, second, third, fourth, fifth, sixth, seventh, eighth, ninth, tenth, eleventh, twelfth")
NUMBER_WORDS = _words("zero, one, two, three, four, five, six, seven, eight, nine, ten, eleven, twelve")

AUTHORS = _pairs("""Hamlet=William Shakespeare; Macbeth=William Shakespeare; Romeo and Juliet=William Shakespeare; Don Quixote=Miguel de Cervantes;
War and Peace=Leo Tolstoy; Anna Karenina=Leo Tolstoy; Crime and Punishment=Fyodor Dostoevsky; Pride and Prejudice=Jane Austen; Emma=Jane Austen;
Oliver Twist=Charles Dickens; Great Expectations=Charles Dickens; 1984=George Orwell; Animal Farm=George Orwell; The Hobbit=J. R. R. Tolkien;
The Lord of the Rings=J. R. R. Tolkien; Harry Potter=J. K. Rowling; The Odyssey=Homer; The Iliad=Homer; The Divine Comedy=Dante; Faust=Goethe;
Frankenstein=Mary Shelley; Dracula=Bram Stoker; Moby Dick=Herman Melville; Les Miserables=Victor Hugo; The Little Prince=Antoine de Saint-Exupery;
Alice in Wonderland=Lewis Carroll; Peter Pan=J. M. Barrie; Treasure Island=Robert Louis Stevenson; Ulysses=James Joyce; The Trial=Franz Kafka;
Jane Eyre=Charlotte Bronte; Wuthering Heights=Emily Bronte; The Great Gatsby=F. Scott Fitzgerald; Sherlock Holmes=Arthur Conan Doyle;
Pinocchio=Carlo Collodi; The Jungle Book=Rudyard Kipling; Brave New World=Aldous Huxley; Dune=Frank Herbert; Robinson Crusoe=Daniel Defoe""")
INVENTORS = _pairs("""telephone=Alexander Graham Bell; light bulb=Thomas Edison; printing press=Johannes Gutenberg; steam engine=James Watt;
radio=Guglielmo Marconi; dynamite=Alfred Nobel; World Wide Web=Tim Berners-Lee; airplane=the Wright brothers; telescope=Hans Lippershey;
phonograph=Thomas Edison; diesel engine=Rudolf Diesel; battery=Alessandro Volta; Python language=Guido van Rossum; Linux kernel=Linus Torvalds;
C language=Dennis Ritchie; lightning rod=Benjamin Franklin; Morse code=Samuel Morse; periodic table=Dmitri Mendeleev; dishwasher=Josephine Cochrane""")
DISCOVERERS = _pairs("""penicillin=Alexander Fleming; gravity=Isaac Newton; radium=Marie Curie; relativity=Albert Einstein; evolution=Charles Darwin;
X-rays=Wilhelm Roentgen; oxygen=Joseph Priestley; electron=J. J. Thomson; the moons of Jupiter=Galileo Galilei; the structure of DNA=Watson and Crick""")
ARTISTS = _pairs("""Mona Lisa=Leonardo da Vinci; The Starry Night=Vincent van Gogh; Guernica=Pablo Picasso; The Scream=Edvard Munch;
The Last Supper=Leonardo da Vinci; Water Lilies=Claude Monet; The Night Watch=Rembrandt; The Birth of Venus=Botticelli; The Kiss=Gustav Klimt;
Girl with a Pearl Earring=Johannes Vermeer""")
COMPOSERS = _pairs("""The Four Seasons=Antonio Vivaldi; The Magic Flute=Wolfgang Amadeus Mozart; Swan Lake=Pyotr Tchaikovsky;
Ode to Joy=Ludwig van Beethoven; Fur Elise=Ludwig van Beethoven; The Nutcracker=Pyotr Tchaikovsky; Bolero=Maurice Ravel; Messiah=George Frideric Handel""")

LANGUAGES = _words("French, Spanish, German, Italian, Portuguese")
TRANSLATIONS = _rows("""
hello|bonjour|hola|hallo|ciao|olá
thank you|merci|gracias|danke|grazie|obrigado
goodbye|au revoir|adiós|auf Wiedersehen|arrivederci|adeus
yes|oui|sí|ja|sì|sim
no|non|no|nein|no|não
please|s'il vous plaît|por favor|bitte|per favore|por favor
water|eau|agua|Wasser|acqua|água
bread|pain|pan|Brot|pane|pão
house|maison|casa|Haus|casa|casa
cat|chat|gato|Katze|gatto|gato
dog|chien|perro|Hund|cane|cão
love|amour|amor|Liebe|amore|amor
sun|soleil|sol|Sonne|sole|sol
book|livre|libro|Buch|libro|livro
""")

# question templates separated by ";;" | answer
GENERAL = _questions("""
[what is|what's|which is] the [largest|biggest] ocean [on earth|in the world|];;[which|what] ocean is the [largest|biggest]|The largest ocean is the Pacific Ocean.
[what is|what's|which is] the [smallest] ocean [on earth|in the world|];;[which|what] ocean is the smallest|The smallest ocean is the Arctic Ocean.
[what is|what's|which is] the [tallest|highest] mountain [on earth|in the world|];;[which|what] mountain is the [tallest|highest]|The highest mountain is Mount Everest.
[what is|what's|which is] the longest river [on earth|in the world|];;[which|what] river is the longest|The Nile is usually called the longest river.
[what is|what's|which is] the [largest|biggest] continent;;[which|what] continent is the [largest|biggest]|The largest continent is Asia.
[what is|what's|which is] the smallest continent;;[which|what] continent is the smallest|The smallest continent is Australia.
[what is|what's|which is] the [largest|biggest] country [on earth|in the world|];;[which|what] country is the [largest|biggest]|The largest country is Russia.
[what is|what's|which is] the smallest country [on earth|in the world|];;[which|what] country is the smallest|The smallest country is Vatican City.
[what is|what's|which is] the [largest|biggest] desert [on earth|in the world|];;[which|what] hot desert is the [largest|biggest]|The largest hot desert is the Sahara.
[what is|what's|which is] the [largest|biggest] animal [on earth|in the world|];;[which|what] animal is the [largest|biggest]|The largest animal is the blue whale.
[what is|what's|which is] the fastest [land |]animal [on earth|in the world|];;[which|what] animal [is the fastest|runs fastest]|The fastest land animal is the cheetah.
[what is|what's|which is] the tallest animal [on earth|in the world|];;[which|what] animal is the tallest|The tallest animal is the giraffe.
[what is|what's|which is] the [largest|biggest] bird;;[which|what] bird is the [largest|biggest]|The largest bird is the ostrich.
[what is|what's|which is] the [largest|biggest] planet [in the solar system|];;[which|what] planet is the [largest|biggest]|The largest planet is Jupiter.
[what is|what's|which is] the smallest planet [in the solar system|];;[which|what] planet is the smallest|The smallest planet is Mercury.
[what is|what's|which is] the hottest planet [in the solar system|];;[which|what] planet is the hottest|The hottest planet is Venus.
[what|which] planet is [closest|nearest] to the sun;;[what is|what's] the [closest|nearest] planet to the sun|The planet closest to the Sun is Mercury.
[what|which] planet is [farthest|furthest] from the sun;;[what is|what's] the [farthest|most distant] planet from the sun|The planet farthest from the Sun is Neptune.
[what|which] planet has [the rings|rings];;[what|which] planet is [famous|known] for its rings|Saturn is the planet famous for its rings.
[what|which] planet is [called|known as] the red planet;;[what is|what's] the red planet|Mars is called the red planet.
[what|which] planet do we live on;;what planet are we on|We live on Earth.
how many planets are there [in the solar system|];;how many planets does the solar system have;;[what is|what's] the number of planets|There are 8 planets in the solar system.
how many continents are there [on earth|in the world|];;[what is|what's] the number of continents|There are 7 continents.
how many oceans are there [on earth|in the world|];;[what is|what's] the number of oceans|There are 5 oceans.
how many days are there in a [leap year];;how many days does a leap year have|A leap year has 366 days.
how many days are [there |]in a year;;how many days does a year have|A year has 365 days, a leap year 366.
how many days are [there |]in a week;;how many days does a week have|A week has 7 days.
how many weeks are [there |]in a year;;how many weeks does a year have|A year has 52 weeks.
how many months are [there |]in a year;;how many months does a year have|A year has 12 months.
how many hours are [there |]in a day;;how many hours does a day have|A day has 24 hours.
how many minutes are [there |]in an hour;;how many minutes does an hour have|An hour has 60 minutes.
how many seconds are [there |]in a minute;;how many seconds does a minute have|A minute has 60 seconds.
how many seconds are [there |]in an hour;;how many seconds does an hour have|An hour has 3600 seconds.
how many years are [there |]in a century;;how [long is|many years is] a century|A century has 100 years.
how many years are [there |]in a decade;;how [long is|many years is] a decade|A decade has 10 years.
how many letters [are in|does] the [english |]alphabet [have|];;how many letters are there in the alphabet|The English alphabet has 26 letters.
how many [bones are in|bones does] the human body [have|];;how many bones [does a human|do humans] have|An adult human has 206 bones.
how many teeth does [an adult|a human|a person] have;;how many teeth do [humans|people|adults] have|An adult human has 32 teeth.
how many fingers does a [hand|person's hand] have;;how many fingers are on [a|one] hand|A hand has 5 fingers.
how many hearts does an octopus have;;how many hearts has an octopus|An octopus has 3 hearts.
how many sides does a triangle have;;how many sides are in a triangle|A triangle has 3 sides.
how many sides does a square have;;how many sides are in a square|A square has 4 sides.
how many sides does a pentagon have;;how many sides are in a pentagon|A pentagon has 5 sides.
how many sides does a hexagon have;;how many sides are in a hexagon|A hexagon has 6 sides.
how many sides does an octagon have;;how many sides are in an octagon|An octagon has 8 sides.
how many degrees are [there |]in a circle;;how many degrees does a circle have|A circle has 360 degrees.
how many colours are [there |]in a rainbow;;how many colors does a rainbow have|A rainbow has 7 colours.
how many players are [there |]in a [football|soccer] team;;how many players does a [football|soccer] team have|A football team has 11 players.
how many strings does a violin have;;how many strings are on a violin|A violin has 4 strings.
how many strings does a guitar have;;how many strings are on a guitar|A guitar usually has 6 strings.
how many keys does a piano have;;how many keys are on a piano|A piano has 88 keys.
how many wheels does a car have;;how many wheels are on a car|A car has 4 wheels.
how many wheels does a bicycle have;;how many wheels are on a [bike|bicycle]|A bicycle has 2 wheels.
how many eggs are in a dozen;;how many is a dozen;;what is a dozen|A dozen is 12.
how many bits are [there |]in a byte;;how many bits does a byte have|A byte has 8 bits.
how many bytes are [there |]in a kilobyte;;how many bytes does a kilobyte have|A kilobyte has 1000 bytes, a kibibyte 1024.
how many meters are [there |]in a kilometer;;how many metres is a kilometre|A kilometre has 1000 metres.
how many centimeters are [there |]in a meter;;how many centimetres is a metre|A metre has 100 centimetres.
how many grams are [there |]in a kilogram;;how many grams is a kilogram|A kilogram has 1000 grams.
[at what temperature|when] does water boil;;[what is|what's] the boiling point of water;;how hot is boiling water|Water boils at 100 degrees Celsius.
[at what temperature|when] does water freeze;;[what is|what's] the freezing point of water;;how cold is ice|Water freezes at 0 degrees Celsius.
[what is|what's] the speed of light;;how fast is light;;how fast does light travel|Light travels at about 300,000 kilometres per second.
[what is|what's] the speed of sound;;how fast is sound;;how fast does sound travel|Sound travels at about 343 metres per second in air.
how far [away |]is the moon;;[what is|what's] the distance to the moon|The Moon is about 384,000 kilometres away.
how far [away |]is the sun;;[what is|what's] the distance to the sun|The Sun is about 150 million kilometres away.
[what is|what's] water made of;;[what is|what's] the [chemical |]formula [of|for] water|Water is H2O: hydrogen and oxygen.
[what is|what's] the [chemical |]formula [of|for] [table |]salt;;[what is|what's] salt made of|Table salt is NaCl: sodium and chlorine.
what gas do plants [absorb|take in|breathe];;which gas do plants need|Plants take in carbon dioxide.
what gas do [we|humans|people] [breathe|need to breathe];;which gas do we need to live|We need oxygen to breathe.
what do bees [make|produce];;what is made by bees|Bees make honey.
what do cows [eat];;what does a cow eat|Cows eat grass.
what do pandas [eat];;what does a panda eat|Pandas eat bamboo.
what do [caterpillars become|caterpillars turn into];;what does a caterpillar become|A caterpillar becomes a butterfly.
where do penguins live;;where can you find penguins|Most penguins live in the southern hemisphere, many in Antarctica.
where do polar bears live;;where can you find polar bears|Polar bears live in the Arctic.
where do kangaroos live;;where can you find kangaroos|Kangaroos live in Australia.
where is the eiffel tower;;[in |]which city is the eiffel tower in|The Eiffel Tower is in Paris.
where is the colosseum;;[in |]which city is the colosseum in|The Colosseum is in Rome.
where is big ben;;[in |]which city is big ben in|Big Ben is in London.
where is the statue of liberty;;[in |]which city is the statue of liberty in|The Statue of Liberty is in New York.
where is the taj mahal;;[in |]which city is the taj mahal in|The Taj Mahal is in Agra, India.
where is the great wall;;[in |]which country is the great wall|The Great Wall is in China.
where are the pyramids;;[in |]which country are the pyramids|The great pyramids are in Egypt.
where does the sun rise;;in which direction does the sun rise|The Sun rises in the east.
where does the sun set;;in which direction does the sun set|The Sun sets in the west.
who was the first [man|person|human] on the moon;;who first walked on the moon|Neil Armstrong was the first person on the Moon.
who was the first [man|person|human] in space;;who flew to space first|Yuri Gagarin was the first person in space.
who was the first president of the [united states|us|usa];;who was america's first president|George Washington was the first US president.
who discovered america;;who sailed to america in 1492|Christopher Columbus reached America in 1492.
who founded apple;;who started apple|Apple was founded by Steve Jobs, Steve Wozniak and Ronald Wayne.
who founded microsoft;;who started microsoft|Microsoft was founded by Bill Gates and Paul Allen.
who is the father of computer science;;who was alan turing|Alan Turing is called the father of computer science.
when did world war [2|two|ii] end;;in what year did the second world war end|World War II ended in 1945.
when did world war [1|one|i] [end];;in what year did the first world war end|World War I ended in 1918.
when did [people|humans|man] [first |]land on the moon;;in what year was the moon landing|The first Moon landing was in 1969.
when did the berlin wall fall;;in what year did the berlin wall come down|The Berlin Wall fell in 1989.
what is the sun;;is the sun a star or a planet|The Sun is a star.
is the earth [flat|round];;what shape is the earth|The Earth is round.
is a tomato a fruit [or a vegetable|];;is a tomato a vegetable|Botanically a tomato is a fruit.
what is the [shortest|first] month [of the year|];;which month is the shortest|The shortest month is February.
what are the primary colours;;name the primary colors|The primary colours are red, yellow and blue.
what are the seasons;;name the four seasons;;how many seasons are there|The four seasons are spring, summer, autumn and winter.
what is the freezing point in fahrenheit;;at how many degrees fahrenheit does water freeze|Water freezes at 32 degrees Fahrenheit.
what is [pi|the value of pi|the number pi];;how much is pi|Pi is about 3.14159.
what is the square root of [16|sixteen];;square root of 16|The square root of 16 is 4.
what is the square root of [81|eighty-one];;square root of 81|The square root of 81 is 9.
what is the square root of [144];;square root of 144|The square root of 144 is 12.
what is the hardest [mineral|natural material|material];;which mineral is the hardest|Diamond is the hardest natural material.
what is the king of the jungle;;which animal is called the king of the jungle|The lion is called the king of the jungle.
what does cpu [stand for|mean];;what is a cpu|CPU stands for central processing unit.
what does gpu [stand for|mean];;what is a gpu|GPU stands for graphics processing unit.
what does ram [stand for|mean];;what is ram|RAM stands for random access memory.
what does html [stand for|mean];;what is html|HTML stands for HyperText Markup Language.
what does json [stand for|mean];;what is json|JSON stands for JavaScript Object Notation.
what does nasa [stand for|mean];;what is nasa|NASA is the US space agency.
what does dna [stand for|mean];;what is dna|DNA is the molecule that carries genes.
what does api [stand for|mean];;what is an api|API stands for application programming interface.
what does ai [stand for|mean];;what is ai|AI stands for artificial intelligence.
""")

NAMES = _words("""Anna, Ben, Clara, David, Emma, Felix, Grace, Henry, Ivan, Julia, Kevin, Laura, Max, Nina, Oscar, Paul, Rosa, Sam, Tom,
Lucy, Mark, Maria, John, Peter, Sarah, Alice, Bob, Carol, Daniel, Eva, Frank, George, Hannah, Ian, Jack, Kate, Leo, Mia, Noah, Olivia, Robert,
Sophie, Thomas, Victor, William, Zoe, Adam, Alex, Amy, Andrew, Anthony, Ashley, Barbara, Brian, Carlos, Charles, Chris, Christina, Claire, Diana, Diego,
Elena, Eric, Fatima, Fiona, Gary, Helen, Hugo, Isabel, James, Jane, Jason, Jennifer, Jessica, Jim, Joe, Jonas, Jordan, Jose, Joseph, Karen, Karl, Ken,
Kim, Lena, Lily, Linda, Lisa, Luca, Luis, Marco, Marie, Martin, Matt, Michael, Mike, Mohamed, Natalie, Nick, Nicole, Omar, Patrick, Philip, Priya,
Rachel, Ryan, Samuel, Sandra, Sara, Scott, Simon, Sofia, Stephen, Steve, Susan, Tim, Tony, Wei, Yuki, Ali, Ahmed, Ella, Finn, Greta, Jan, Lars, Otto, Pedro,
Ravi, Sven, Tara, Uma, Vera, Walter, Xavier, Yara, Zara, Arthur, Bella, Chloe, Dylan, Edward, Freddie, Harry, Iris, Jacob, Katie, Liam, Mary, Nora, Owen""")

CITIES = _words("""New York, Los Angeles, Chicago, Houston, Boston, Seattle, Miami, Denver, Dallas, Austin, San Francisco, San Diego, Philadelphia, Phoenix,
Atlanta, Detroit, Portland, Las Vegas, Toronto, Montreal, Vancouver, Calgary, Sydney, Melbourne, Brisbane, Perth, Auckland, Milan, Naples, Turin, Venice,
Florence, Bologna, Palermo, Munich, Hamburg, Frankfurt, Cologne, Stuttgart, Dresden, Leipzig, Lyon, Marseille, Nice, Toulouse, Bordeaux, Lille, Nantes,
Strasbourg, Barcelona, Valencia, Seville, Bilbao, Granada, Porto, Zurich, Geneva, Basel, Salzburg, Graz, Innsbruck, Antwerp, Ghent, Bruges, Rotterdam, Utrecht,
Manchester, Liverpool, Birmingham, Leeds, Glasgow, Bristol, Oxford, Cambridge, York, Belfast, Cork, Galway, Gothenburg, Malmo, Bergen, Aarhus, Turku, Krakow,
Gdansk, Prague, Brno, Split, Istanbul, Izmir, Dubai, Abu Dhabi, Tel Aviv, Mumbai, Delhi, Bangalore, Chennai, Kolkata, Hyderabad, Pune, Karachi, Lahore,
Shanghai, Shenzhen, Guangzhou, Hong Kong, Taipei, Osaka, Kyoto, Sapporo, Nagoya, Fukuoka, Busan, Hanoi, Phuket, Bali, Cape Town, Johannesburg, Durban,
Lagos, Casablanca, Marrakesh, Alexandria, Rio de Janeiro, Sao Paulo, Salvador, Cusco, Medellin, Cali, Cordoba, Rosario, Guadalajara, Cancun, Orlando, Tampa, Nashville,
Cleveland, Pittsburgh, Minneapolis, Memphis, Baltimore, Charlotte, San Antonio, Honolulu, Anchorage, Salt Lake City, Sacramento, Oakland, Kansas City, Odessa,
Lviv, Minsk, Saint Petersburg, Novosibirsk, Baku, Tashkent, Colombo, Yangon, Nuremberg, Hanover, Bonn, Monaco, Andorra, Pisa, Verona, Genoa, Siena, Bari,
Malaga, Zaragoza, Braga, Faro, Lausanne, Lucerne, Linz, Eindhoven, The Hague, Sheffield, Newcastle, Nottingham, Aberdeen, Brighton, Bath, Limerick, Uppsala,
Trondheim, Tampere, Tartu, Kaunas, Lodz, Poznan, Wroclaw, Ostrava, Kosice, Pecs, Cluj, Plovdiv, Thessaloniki, Patras, Haifa, Mecca, Medina, Jaipur, Agra, Goa,
Chengdu, Wuhan, Nanjing, Xi'an, Macau, Kobe, Hiroshima, Incheon, Cebu, Davao, Penang, Darwin, Adelaide, Hobart, Gold Coast, Christchurch, Queenstown""")

FAVOURITES = {
    "colour": _words("blue, red, green, yellow, purple, orange, pink, black, white, brown, grey, turquoise"),
    "food": _words("pizza, pasta, sushi, rice, chocolate, soup, bread, cheese, salad, ice cream, curry, pancakes, burgers, noodles, steak, tacos"),
    "animal": _words("dogs, cats, horses, elephants, penguins, owls, tigers, dolphins, rabbits, foxes, lions, bears, turtles, wolves"),
    "sport": _words("football, tennis, basketball, swimming, running, chess, golf, hockey, cycling, volleyball, baseball, rugby, skiing, boxing"),
    "season": _words("spring, summer, autumn, winter"),
    "number": _words("7, 3, 13, 42, 8, 5, 21, 11, 9, 12, 100, 27, 64, 17"),
    "drink": _words("coffee, tea, water, milk, juice, lemonade, cola, beer, wine"),
    "city": _words("Paris, Rome, London, Berlin, Tokyo, Madrid, Vienna, New York, Lisbon, Prague"),
}

CONDITIONS = _words("""sunny, cloudy, partly cloudy, light rain, heavy rain, rain, snow, light snow, fog, foggy, windy, clear, clear sky, overcast, thunderstorm,
stormy, drizzle, hail, showers, mostly sunny, rainy, snowy, hazy, hot, cold, mist, scattered clouds""")

JOKES = _rows("""
Why did the computer go to the doctor? It had a virus.
Why do programmers prefer dark mode? Because light attracts bugs.
What do you call a bear with no teeth? A gummy bear.
Why did the math book look sad? It had too many problems.
What do you call a fish without eyes? A fsh.
Why can't a bicycle stand on its own? It is two tired.
Why did the scarecrow win a prize? He was outstanding in his field.
What do you get when you cross a snowman and a vampire? Frostbite.
""")
FUN_FACTS = _rows("""
Honey never spoils.
Octopuses have three hearts.
Bananas are berries, but strawberries are not.
A day on Venus is longer than its year.
Sharks are older than trees.
A group of flamingos is called a flamboyance.
""")
